"""What a message shows of a value that may be anything, and of any size."""

from __future__ import annotations

import reprlib

_SHOWN_MAX = 200  # characters of a name in a message; a hostile file may have names of megabytes
# Of the rest that JSON has: some elements of a list or an object, two levels deep.
_brief = reprlib.Repr()
_brief.maxlevel, _brief.maxlist, _brief.maxdict, _brief.maxtuple = 2, 8, 4, 8


def shown(text: object) -> str:
    """Return `text` as a message shows it: in quotes, cut to a length that a line can carry.

    Raises
    ------
    Nothing.
    """
    if isinstance(text, str):
        cut = len(text) > _SHOWN_MAX
        return f"{text[:_SHOWN_MAX]!r}… ({len(text)} characters)" if cut else repr(text)
    return _brief.repr(text)
