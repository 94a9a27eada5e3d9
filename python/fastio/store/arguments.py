"""The arguments of a new store, checked."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath

import numpy as np

from fastio.arguments.paths import path_of, path_to_write
from fastio.arguments.sizes import whole_number
from fastio.display.values import shown
from fastio.errors import UsageError
from fastio.storage.known import address_of, is_url
from fastio.store import partition, placement
from fastio.store.documents import ROOTS_MAX, is_weight


def paths(roots: object, *, to_write: bool = False, may_repeat: bool = False) -> list[PurePath]:
    """Return roots as absolute paths.

    Parameters
    ----------
    roots : iterable of path
    to_write : bool
        Whether they are to be made; they may not be there then.
    may_repeat : bool
        Whether two may lead to the same folder.

    Raises
    ------
    TypeError, ValueError
    WriteError
        With `to_write`: a root that no folder can be meant by.
    """
    if isinstance(roots, (str, bytes, os.PathLike, Mapping)) or not isinstance(roots, Iterable):
        raise TypeError(f"roots must be a sequence of paths, not {type(roots).__name__}")
    roots = list(roots)
    if any(isinstance(root, (str, bytes)) and not root for root in roots):
        raise UsageError("a root is empty: expected the path of a folder")
    found = [address_of(_typed(root, to_write=to_write)) for root in roots]
    if not 1 <= len(found) <= ROOTS_MAX:
        raise ValueError(f"{len(found)} roots: expected 1 to {ROOTS_MAX}")
    if not may_repeat and len({os.path.realpath(path) for path in found}) < len(found):
        raise ValueError("a root is given twice")
    return found


def _typed(root: object, *, to_write: bool) -> str:
    path = path_of(root, "a root")
    return str(path_to_write(root, "a root")) if to_write and not is_url(path) else path


def check_count(what: str, value: object, low: int, high: int) -> None:
    """Refuse what is no number between two bounds.

    Raises
    ------
    TypeError, ValueError
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, int):
        raise TypeError(f"{what} must be an int, not {type(value).__name__}")
    if not low <= value <= high:
        raise ValueError(f"{what}={value}: expected {low} to {high}")


def size(what: str, value: object) -> int | None:
    """Return a number of bytes.

    Raises
    ------
    TypeError, ValueError
    """
    if value is None:
        return None
    found = whole_number(what, value)
    check_count(what, found, 1, 2**63 - 1)
    return found


def mode(value: object) -> int:
    """Return what files may be used for, and by whom.

    Raises
    ------
    TypeError, ValueError
    """
    check_count("mode", value, 0, 0o777)
    assert isinstance(value, int)
    if value & 0o600 != 0o600:
        raise ValueError(f"mode={value:o}: the owner must be able to read and write")
    return value


def weights(given: object, count: int) -> list[float]:
    """Return a weight for each root.

    Raises
    ------
    ValueError
    """
    if given is None:
        return [1.0] * count
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise TypeError(f"weights must be a sequence of numbers, not {type(given).__name__}")
    if len(given) != count or not all(is_weight(weight) for weight in given):
        raise ValueError(f"weights={shown(list(given))}: expected {count} positive numbers")
    return [float(weight) for weight in given]


def partition_name(by: object) -> str:
    """Return what the manifest calls a way to spread tensors over shards.

    Raises
    ------
    ValueError
    """
    if callable(by):
        return "callable"
    if by not in partition.PARTITIONS:
        raise ValueError(
            f"partition={shown(by)}: expected {', '.join(partition.PARTITIONS)} or a callable"
        )
    return str(by)


def places(
    where: object, uuids: Sequence[str], replicas: int
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return the roots of each pattern of names.

    Raises
    ------
    TypeError, ValueError
    """
    if isinstance(where, str):
        if where not in placement.PLACEMENTS:
            raise ValueError(
                f"placement={shown(where)}: expected {', '.join(placement.PLACEMENTS)} or a mapping"
            )
        return ()
    if not isinstance(where, Mapping):
        raise TypeError(f"placement must be a str or a mapping, not {type(where).__name__}")
    if not where:
        raise ValueError("placement is an empty mapping: expected a pattern at least")
    found = []
    for pattern, roots in where.items():
        if not isinstance(pattern, str) or not isinstance(roots, (int, Sequence)):
            raise TypeError(
                f"placement[{pattern!r}]={shown(roots)}: expected a pattern of names, and the "
                "places of roots"
            )
        chosen = [roots] if isinstance(roots, int) else list(roots)
        for root in chosen:
            check_count(f"placement[{pattern!r}]", root, 0, len(uuids) - 1)
        if len(set(chosen)) != len(chosen) or len(chosen) < replicas:
            raise ValueError(
                f"placement[{pattern!r}]={chosen}: expected {replicas} different roots at least"
            )
        found.append((str(pattern), tuple(uuids[root] for root in chosen)))
    return tuple(found)
