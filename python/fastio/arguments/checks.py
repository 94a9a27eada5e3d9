"""Arguments of classes of fastio, refused if they are something else."""

from __future__ import annotations


def check_kind(what: str, value: object, kind: type) -> None:
    """Refuse an argument that is neither None nor of its class.

    Raises
    ------
    TypeError
    """
    if value is not None and not isinstance(value, kind):
        raise TypeError(f"{what} must be a fastio.{kind.__name__}, not {type(value).__name__}")
