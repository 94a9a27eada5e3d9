"""JSON from files that may be hostile: every doubtful text is refused, with the place in the file.

The json module alone takes doubled keys, NaN, lone surrogates and negative zero.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from fastio.errors import FormatError
from fastio.shown import shown


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
    except ValueError as error:  # an integer of more digits than Python converts
        raise FormatError(
            path, f"is not JSON: {error}", offset=at, expected="smaller numbers"
        ) from None


def position(text: bytes, word: str, at: int = 0) -> int:
    """Where a string stands last in a text: for messages, so a guess will do.

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
        if isinstance(value, str):
            _refuse_lone_surrogates(value)
    return members


def _refuse_lone_surrogates(string: str) -> None:
    try:
        string.encode()
    except UnicodeEncodeError:
        raise _Refused(
            "has half of a surrogate pair in a string", "valid Unicode", string
        ) from None


def _constant(name: str) -> NoReturn:
    raise _Refused(f"is not JSON: it has {name}", "a number", name)


def _integer(digits: str) -> int | float:
    return -0.0 if digits == "-0" else int(digits)  # not a size: no unsigned integer is written so


_decoder = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_int=_integer)
