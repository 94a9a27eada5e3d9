"""Arguments that are no mapping of tensors by name: the error says what they are, and the cure."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from fastio.display.values import shown
from fastio.frameworks import framework_of


def check_mapping(tensors: Any) -> None:
    """Refuse what is no mapping of names to tensors.

    Raises
    ------
    TypeError
        Says what it is, and what to hand over.
    """
    if not isinstance(tensors, Mapping):
        raise TypeError(
            f"tensors must be a mapping of names, not {type(tensors).__name__}{_instead(tensors)}"
        )


def _instead(given: Any) -> str:
    if isinstance(given, type):
        return ""
    if _is_optimizer(given):
        return (
            ": its state_dict() is nested, and has numbers; give each tensor of it a name of its "
            "own, and save the numbers as metadata"
        )
    if callable(getattr(given, "state_dict", None)):
        return ": hand over its state_dict()"
    if isinstance(given, (str, os.PathLike)):
        return ": the path and the tensors are swapped"
    if framework_of(given) is not None:
        return ": give the tensor a name, {'name': tensor}"
    if isinstance(given, Iterable):
        return ": give each tensor a name, {'name': tensor, ...}"
    return ""


def _is_optimizer(given: Any) -> bool:
    return hasattr(given, "param_groups") and hasattr(given, "state_dict")


def problem_of(value: Any) -> str:
    """Return why a value is no tensor, and what to do about it; for a message that names it."""
    what = f"is a {type(value).__name__}, and no array or tensor"
    if value is None:
        return f"{what}: leave it out"
    if isinstance(value, Mapping):
        inner = next(iter(value), "...")
        return f"{what}: give each tensor in it a name of its own, as in '<name>.{inner!s:.40}'"
    if callable(getattr(value, "state_dict", None)):
        return f"{what}: hand over the tensors of its state_dict()"
    if isinstance(value, (bool, int, float, complex, np.generic)):
        return f"{what}: numpy.asarray() makes one of it, or save it as metadata"
    if isinstance(value, (str, bytes)):
        return f"{what}: text is saved as metadata"
    if isinstance(value, (list, tuple, set, frozenset)):
        return (
            f"{what}: numpy.asarray() makes one of numbers; give tensors in it names of their own"
        )
    return what


def check_path(path: Any, call: str) -> None:
    """Refuse tensors in the place of a path: arguments in the other order.

    Raises
    ------
    TypeError
    """
    if isinstance(path, Mapping) or callable(getattr(path, "state_dict", None)):
        raise TypeError(
            f"path must be a str or os.PathLike, not {type(path).__name__}: {shown(call)} takes "
            "the tensors first, then the path"
        )
