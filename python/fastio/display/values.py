"""How values are shown to people: what may be anything, of any size, in one line of a message."""

from __future__ import annotations

import functools
import reprlib
from collections.abc import Callable, Sequence
from typing import Any

# Characters of a name in a message. A hostile file may have names of megabytes.
_SHOWN_MAX = 200
_REPR_MAX = 120  # characters of a repr

# Of other JSON values: some elements of a list or an object, two levels deep.
_brief = reprlib.Repr()
_brief.maxlevel, _brief.maxlist, _brief.maxdict, _brief.maxtuple = 2, 8, 4, 8


def shown(text: object) -> str:
    """Return `text` as a message shows it: in quotes, cut to a length that a line can carry.

    Raises
    ------
    Nothing.
    """
    if isinstance(text, str):
        is_long = len(text) > _SHOWN_MAX
        return f"{text[:_SHOWN_MAX]!r}… ({len(text)} characters)" if is_long else repr(text)
    return _brief.repr(text)


def cut(text: str, most: int) -> str:
    """Return `text` on one line of so many characters: its middle is left out where it is longer,
    and what cannot be printed is escaped.

    Raises
    ------
    Nothing.
    """
    if len(text) > most:
        head = (most - 1) // 2
        text = f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"
    if text.isprintable():
        return text
    escaped = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return cut("".join(escaped), most)


def one_line(says: Callable[[Any], str]) -> Callable[[Any], str]:
    """Make a `__repr__` of a method that says what an object is: it fits on one line, and it raises
    nothing, whatever state the object is in.

    Raises
    ------
    Nothing.
    """

    @functools.wraps(says)
    def __repr__(self: object) -> str:
        try:
            text = says(self)
        except Exception:  # half made, or of another process: a debugger shows it all the same
            text = f"<fastio.{type(self).__name__}, in no state to be described>"
        return cut(text, _REPR_MAX)

    return __repr__


def listed(items: Sequence[object], most: int) -> list[str]:
    """Return the first of some items, each as text, and how many more there are.

    Raises
    ------
    Nothing.
    """
    more = len(items) - most
    return [*map(str, items[:most]), *([f"… and {more} more"] if more > 0 else ())]


def counted(number: int, what: str) -> str:
    """Return a number of things: "1 file", "2 files".

    Raises
    ------
    Nothing.
    """
    return f"{number} {what}{'' if number == 1 else 's'}"


def size(nbytes: float) -> str:
    """Return a number of bytes in units of 10^3, 10^6, 10^9: "12.2 MB".

    Raises
    ------
    Nothing.
    """
    if nbytes < 1e3:
        return f"{nbytes:.0f} B"
    if nbytes < 1e6:
        return f"{nbytes / 1e3:.1f} kB"
    return f"{nbytes / 1e6:.1f} MB" if nbytes < 1e9 else f"{nbytes / 1e9:.2f} GB"


def rate(bytes_per_s: float) -> str:
    """Return a speed: "3.31 GB/s".

    Raises
    ------
    Nothing.
    """
    slow = 0 < bytes_per_s < 1e7
    return f"{size(bytes_per_s)}/s" if slow else f"{bytes_per_s / 1e9:.2f} GB/s"


def duration(seconds: float) -> str:
    """Return a time: "0.742 s"; what is shorter than a millisecond in microseconds.

    Raises
    ------
    Nothing.
    """
    short = 0 < seconds < 1e-3
    return f"{seconds * 1e6:.0f} µs" if short else f"{seconds:.3f} s"
