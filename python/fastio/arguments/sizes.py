"""Sizes, counts and times as people write them: ``8M``, ``"1.5 GiB"``, ``1e9``, numpy's numbers."""

from __future__ import annotations

import contextlib
import math
import operator
import re
from typing import SupportsFloat

import numpy as np

from fastio.display.values import shown
from fastio.errors import UsageError

_EXPECTED = (
    "a whole number, perhaps with K, M, G, T or KiB, MiB, GiB, TiB (powers of 1024) or "
    "kB, MB, GB, TB (powers of 1000) behind it"
)
_WRITTEN = re.compile(
    r"([0-9]{1,30}(?:_[0-9]{1,30}){0,9})(\.[0-9]{0,30})?(e\+?[0-9]{1,2})?\s*(?:([kmgt])(i?b?)|b)?",
    re.ASCII | re.IGNORECASE,
)
_POWERS = {"k": 1, "m": 2, "g": 3, "t": 4}
SECONDS_MAX = 1e9
"""Of a wait that ends, 31 years: what Python and Linux take. `threading.TIMEOUT_MAX` is 9.2e9."""


def whole_number(what: str, value: object) -> int:
    """Return what a number means.

    Parameters
    ----------
    what : str
        The argument, or the variable that the value came from, for messages.
    value : int, float or str
        A float must be whole. A str may have a unit. ``K`` and ``KiB`` are 1024 bytes, ``kB`` is
        1000, in upper or lower case; a fraction of a byte is cut off.

    Raises
    ------
    TypeError
        If it is none of these; a bool is no number.
    ValueError
        If it is not whole, not finite, or a text that says no number.
    """
    if isinstance(value, str):
        return _parsed(what, value)
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{what} must be an int, not bool")
    if hasattr(value, "__index__"):
        try:
            return operator.index(value)
        except TypeError:
            pass  # an array of more than one number
    elif isinstance(value, (float, np.floating)):
        if math.isfinite(value) and value == int(value):
            return int(value)
        raise ValueError(f"{what}={value}: expected a whole number")
    raise TypeError(f"{what} must be an int, not {type(value).__name__}")


def seconds(what: str, value: object) -> float:
    """Return what a time means, in seconds: more than 0, and perhaps without end.

    Parameters
    ----------
    what : str
        The argument, or the variable that the value came from, for messages.
    value : int, float or str
        A str may have an ``s`` behind the number. ``inf`` has no end, and so has what is longer
        than `SECONDS_MAX`.

    Raises
    ------
    TypeError
        If it is none of these; a bool is no number.
    UsageError
        If it is 0 or less, or a text that says no number.
    """
    number = math.nan
    if isinstance(value, str):
        if value.isascii():
            with contextlib.suppress(ValueError):
                number = float(value.strip().lower().removesuffix("s"))
    else:
        number = _float(what, value)
    if not number > 0:
        raise UsageError(f"{what}={shown(value)}: expected seconds, more than 0, or inf")
    return number if number <= SECONDS_MAX else math.inf


def patience(what: str, value: object) -> float | None:
    """Return how long to wait, in seconds: for ever where it is None or longer than anybody can.

    Raises
    ------
    TypeError
        If it is no number.
    UsageError
        If it is nan.
    """
    if value is None:
        return None
    number = _float(what, value)
    if math.isnan(number):
        raise UsageError(f"{what}=nan: expected seconds, or None")
    return number if number <= SECONDS_MAX else None


def _float(what: str, value: object) -> float:
    if isinstance(value, SupportsFloat) and not isinstance(value, (bool, np.bool_)):
        try:
            return float(value)
        except OverflowError:
            return math.inf
        except TypeError:
            pass  # an array of more than one number
    raise TypeError(f"{what} must be a float, not {type(value).__name__}")


def _parsed(what: str, text: str) -> int:
    written = _WRITTEN.fullmatch(text.strip())
    if written is None:
        raise ValueError(f"{what}={shown(text)}: expected {_EXPECTED}")
    digits, fraction, exponent, unit, suffix = written.groups(default="")
    base = 1000 if suffix.lower() == "b" else 1024
    scale = base ** _POWERS[unit.lower()] if unit else 1
    decimals = fraction[1:]
    power = int(exponent[1:] or 0) - len(decimals)
    larger: int = 10 ** max(power, 0)
    smaller: int = 10 ** max(-power, 0)
    value, rest = divmod(int(digits + decimals) * scale * larger, smaller)
    if rest and not unit:
        raise ValueError(f"{what}={shown(text)}: expected a whole number")
    return value
