"""Names that are similar to a missing one."""

from __future__ import annotations

import bisect
import difflib
from collections.abc import Iterable

_MATCHES_MAX = 3
_NEIGHBOURS = 64  # names before and behind a missing one that are compared with it
_COMPARED_CHARACTERS_MAX = 512  # comparing takes quadratic time


def close_matches(name: str, names: Iterable[str]) -> tuple[str, ...]:
    """Return the names most like a missing one, the closest first, of those that begin or end like
    it.

    Raises
    ------
    Nothing.
    """
    if len(name) > _COMPARED_CHARACTERS_MAX:
        return ()
    names = list(names)
    forwards = _neighbours(name, names)
    backwards = _neighbours(name[::-1], (other[::-1] for other in names))
    candidates = {*forwards, *(other[::-1] for other in backwards)}
    return tuple(
        difflib.get_close_matches(
            name,
            (other for other in candidates if len(other) <= _COMPARED_CHARACTERS_MAX),
            _MATCHES_MAX,
        )
    )


def _neighbours(name: str, names: Iterable[str]) -> list[str]:
    ordered = sorted(names)
    at = bisect.bisect(ordered, name)
    return ordered[max(0, at - _NEIGHBOURS) : at + _NEIGHBOURS]
