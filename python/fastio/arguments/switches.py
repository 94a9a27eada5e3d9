"""Switches as people write them: ``1``, ``true``, ``off``."""

from __future__ import annotations

from fastio.display.values import shown

_MEANINGS = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


def is_on(what: str, value: object) -> bool:
    """Return what a switch means.

    Parameters
    ----------
    what : str
        The argument, or the variable that the value came from, for messages.
    value : bool or str

    Raises
    ------
    TypeError
        If it is neither.
    ValueError
        If it is a text that is none of 1, true, yes, on, 0, false, no and off, in any case.
    """
    if isinstance(value, bool):
        return value
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a bool, not {type(value).__name__}")
    meaning = _MEANINGS.get(value.strip().lower())
    if meaning is None:
        raise ValueError(f"{what}={shown(value)}: expected one of {', '.join(_MEANINGS)}")
    return meaning
