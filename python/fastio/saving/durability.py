"""Whether a save waits for the disk, where its caller does not say."""

from __future__ import annotations

import os

from fastio.shown import shown

VARIABLE = "FASTIO_DURABLE"
_MEANINGS = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


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
    if not text:
        return True
    meaning = _MEANINGS.get(text.lower())
    if meaning is None:
        raise ValueError(f"{VARIABLE}={shown(text)}: expected one of {', '.join(_MEANINGS)}")
    return meaning
