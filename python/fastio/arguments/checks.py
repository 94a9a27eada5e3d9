"""Arguments that many calls share, refused if they are not what they should be."""

from __future__ import annotations

from typing import Literal

Verify = bool | Literal["require"]


def check_verify(verify: object) -> None:
    """Refuse what `verify=` cannot be.

    Raises
    ------
    ValueError
    """
    if verify not in (True, False, "require"):
        raise ValueError(f"verify={verify!r}: expected True, False or 'require'")


def check_kind(what: str, value: object, kind: type) -> None:
    """Refuse an argument that is neither None nor of its class.

    Raises
    ------
    TypeError
    """
    if value is not None and not isinstance(value, kind):
        raise TypeError(f"{what} must be a fastio.{kind.__name__}, not {type(value).__name__}")
