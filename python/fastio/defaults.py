"""The options of whoever gives none: made anew only where the environment has changed."""

from __future__ import annotations

import os
from dataclasses import fields
from functools import lru_cache

from fastio.options import Options, default_lanes

_VARIABLES = tuple(f"FASTIO_{each.name.upper()}" for each in fields(Options))


def default_options() -> Options:
    """Return what ``Options()`` does.

    Raises
    ------
    ValueError
        A variable whose value is none.
    """
    return _made_of(*map(os.environ.get, _VARIABLES), default_lanes())


@lru_cache(maxsize=1)  # checking each value takes longer than opening a file
def _made_of(*_seen: object) -> Options:
    return Options()
