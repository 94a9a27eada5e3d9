"""JSON from files that may be hostile: every doubtful text is refused, with the place in the file.

The json module alone takes doubled keys, NaN, lone surrogates, negative zero, and numbers that come
to infinity.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from fastio.display.values import shown
from fastio.errors import FormatError

_DIGITS_MAX = 300  # of an integer that is surely a floating-point number, too


class _Refused(Exception):
    """Raised by hooks, which do not know where they are."""

    def __init__(self, problem: str, expected: str, near: str) -> None:
        self.problem, self.expected, self.near = problem, expected, near


def decode(text: bytes, path: str, *, at: int = 0) -> Any:
    """Return what a JSON text says.

    Parameters
    ----------
    text : bytes
        UTF-8.
    path : str
        The file, for messages.
    at : int
        Where in the file the text begins, in bytes.

    Raises
    ------
    FormatError
        If it is not UTF-8 or not JSON, nests too deeply, or has a key twice in one object.
    """
    try:
        characters = text.decode()
    except UnicodeDecodeError as error:
        raise FormatError(
            path, f"is not UTF-8: {error.reason}", offset=at + error.start, expected="JSON in UTF-8"
        ) from None
    try:
        return _decoder.decode(characters)
    except json.JSONDecodeError as error:
        where = at + len(characters[: error.pos].encode())
        raise FormatError(
            path, f"is not JSON: {error.msg}", offset=where, expected="a JSON object"
        ) from None
    except RecursionError:
        raise FormatError(
            path, "nests too deeply", offset=at, expected="a JSON object of a few levels"
        ) from None
    except _Refused as refused:
        raise FormatError(
            path,
            refused.problem,
            offset=position(text, refused.near, at),
            expected=refused.expected,
        ) from None
    except ValueError as error:  # a number that is too large
        raise FormatError(
            path, f"is not JSON: {error}", offset=at, expected="smaller numbers"
        ) from None


def position(text: bytes, word: str, at: int = 0) -> int:
    """The last position of a string in a text: for messages, so a guess will do.

    Raises
    ------
    Nothing.
    """
    for escaped in (False, True):
        found = text.rfind(json.dumps(word, ensure_ascii=escaped).encode("utf-8", "replace"))
        if found >= 0:
            return at + found
    return at + max(0, text.rfind(word.encode("utf-8", "replace")))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        seen: set[str] = set()
        doubled = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _Refused(f"has the key {shown(doubled)} twice", "each key once", doubled)
    for key, value in pairs:
        _refuse_lone_surrogates(key)
        if isinstance(value, (str, list)):
            _refuse_lone_surrogates(value)
    return members


def _refuse_lone_surrogates(value: str | list[Any]) -> None:
    """Look at a string, or at those in a list; objects in it were looked at before."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += [item for item in value if isinstance(item, (str, list))]
            continue
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _Refused(
                "has half of a surrogate pair in a string", "valid Unicode", value
            ) from None


def _constant(name: str) -> NoReturn:
    raise _Refused(f"is not JSON: it has {name}", "a number", name)


def _integer(digits: str) -> int | float:
    if len(digits) > _DIGITS_MAX:
        _number(digits)
    return -0.0 if digits == "-0" else int(digits)  # not a size: no unsigned integer is written so


def _number(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"a number of {len(text)} characters is beyond all floating-point ones")
    return number


_decoder = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_constant=_constant,
    parse_int=_integer,
    parse_float=_number,
)
