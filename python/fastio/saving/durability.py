"""The default of `durable`: whether a save waits for the disk."""

from __future__ import annotations

import os

from fastio.arguments.switches import is_on

VARIABLE = "FASTIO_DURABLE"


def is_durable(asked: bool | None = None) -> bool:
    """Return what the argument says; without one the variable; without both True.

    Raises
    ------
    ValueError
        If the variable is none of 1, true, yes, on, 0, false, no and off. Names it.
    """
    if asked is not None:
        return bool(asked)
    text = os.environ.get(VARIABLE, "").strip()
    return is_on(VARIABLE, text) if text else True
