"""The partition of tensors into shards; large tensors are cut along axis 0."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from fastio.display.values import shown
from fastio.frameworks import Place
from fastio.saving.origins import Origins

SHARD_BYTES_MIN, SHARD_BYTES_MAX = 2**26, 2**32
"""Between these a shard's size is found by itself."""
_SHARDS_PER_ROOT = 32  # so that what one of them has more than another is little
_ALIGNED_BYTES = 4096

Partition = str | Callable[[str], object]
PARTITIONS = ("size", "hash", "range")


@dataclass(frozen=True)
class Cut:
    """A tensor that was cut: its pieces by name, in the order of their rows."""

    dtype: str
    shape: tuple[int, ...]
    pieces: tuple[str, ...]


@dataclass(frozen=True)
class Group:
    """Tensors that share a shard.

    Attributes
    ----------
    label : str
        The same one in the next generation, if the same tensors are saved.
    rows : list of int
        Ascending.
    nbytes : int
    """

    label: str
    rows: list[int]
    nbytes: int


def shard_size(asked: int | None, data_bytes: int, roots: int) -> int:
    """Return how many bytes of tensors a shard has at most.

    Raises
    ------
    Nothing.
    """
    if asked is not None:
        return asked
    share = max(1, data_bytes // (roots * _SHARDS_PER_ROOT))
    # A power of two, so that a model that grows a little is still cut as before.
    return min(max(_power_of_two(share), SHARD_BYTES_MIN), SHARD_BYTES_MAX)


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()


def cut_large(origins: Origins, shard_bytes: int) -> tuple[Origins, dict[str, Cut]]:
    """Cut tensors of more than `shard_bytes` along axis 0; no memory is copied.

    Raises
    ------
    Nothing: a tensor that cannot be cut has a shard of its own.
    """
    if not np.any(origins.nbytes > shard_bytes):
        return origins, {}
    taken = set(origins.names)
    cuts: dict[str, Cut] = {}
    found = msgspec.structs.replace(
        origins,
        names=[],
        dtypes=[],
        shapes=[],
        layouts={},
        owners=[],
        devices={},
    )
    addresses: list[int] = []
    nbytes: list[int] = []
    for row, name in enumerate(origins.names):
        size, shape = int(origins.nbytes[row]), origins.shapes[row]
        ranges = _ranges(size, shape, shard_bytes)
        pieces = []
        for first, last in ranges:
            whole = len(ranges) == 1
            piece = name if whole else _free_name(f"{name}[{first}:{last}]", taken)
            pieces.append(piece)
            if row in origins.layouts:
                place, swapped = origins.layouts[row]
                part = place if whole else _part(place, first, last)
                found.layouts[len(found.names)] = part, swapped
            if row in origins.devices:
                found.devices[len(found.names)] = origins.devices[row]
            found.names.append(piece)
            found.dtypes.append(origins.dtypes[row])
            found.shapes.append(shape if whole else (last - first, *shape[1:]))
            found.owners.append(origins.owners[row])
            row_bytes = 0 if whole else size // shape[0]
            nbytes.append(size if whole else (last - first) * row_bytes)
            addresses.append(int(origins.addresses[row]) + first * row_bytes)
        if len(ranges) > 1:
            cuts[name] = Cut(origins.dtypes[row], shape, tuple(pieces))
    return (
        msgspec.structs.replace(
            found,
            addresses=np.array(addresses, np.uint64),
            nbytes=np.array(nbytes, np.int64),
        ),
        cuts,
    )


def _ranges(nbytes: int, shape: tuple[int, ...], shard_bytes: int) -> list[tuple[int, int]]:
    """The rows of each piece."""
    if nbytes <= shard_bytes or not shape or shape[0] < 2 or nbytes % shape[0]:
        return [(0, shape[0] if shape else 1)]
    row_bytes = nbytes // shape[0]
    rows = max(1, shard_bytes // row_bytes)
    # So that a piece can be read straight to where it belongs.
    unit = _ALIGNED_BYTES // math.gcd(row_bytes, _ALIGNED_BYTES)
    if rows > unit:
        rows = rows // unit * unit
    return [(first, min(first + rows, shape[0])) for first in range(0, shape[0], rows)]


def _part(place: Place, first: int, last: int) -> Place:
    address = place.address + first * place.strides[0]
    return place._replace(address=address, shape=(last - first, *place.shape[1:]))


def _free_name(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "'"
    taken.add(name)
    return name


def groups(
    origins: Origins, order: Sequence[str], shard_bytes: int, partition: Partition
) -> list[Group]:
    """Spread tensors over shards.

    Parameters
    ----------
    origins : Origins
        What `cut_large` returned.
    order : sequence of str
        All its names, as they are to be spread by size.
    shard_bytes : int
    partition : str or callable
        ``size`` fills shards in this order, ``range`` in that of the names; ``hash`` spreads by a
        hash of the name; a callable is given a name and says which group it belongs to.

    Raises
    ------
    ValueError
        If there is no such partition.
    Whatever the callable raises.
    """
    row_of = {name: row for row, name in enumerate(origins.names)}
    if callable(partition):
        by_label: dict[str, list[int]] = {}
        for name in sorted(order):
            by_label.setdefault(_plain(str(partition(name))), []).append(row_of[name])
        return [
            group
            for label in sorted(by_label)
            for group in _filled(f"{label}-", by_label[label], origins, shard_bytes)
        ]
    if partition == "size":
        return list(_filled("", [row_of[name] for name in order], origins, shard_bytes))
    if partition == "range":
        return list(_filled("", [row_of[name] for name in sorted(order)], origins, shard_bytes))
    if partition == "hash":
        count = _power_of_two(max(1, -(-origins.data_bytes // shard_bytes)))
        buckets: dict[int, list[int]] = {}
        for name in order:
            digest = hashlib.sha256(name.encode()).digest()
            bucket = int.from_bytes(digest[:8], "little") % count
            buckets.setdefault(bucket, []).append(row_of[name])
        return [
            Group(f"{bucket:05d}", sorted(rows), int(origins.nbytes[rows].sum()))
            for bucket, rows in sorted(buckets.items())
        ]
    raise ValueError(
        f"partition={shown(partition)}: expected {', '.join(PARTITIONS)} or a callable"
    )


def _filled(
    prefix: str, rows: Iterable[int], origins: Origins, shard_bytes: int
) -> Iterable[Group]:
    waiting: list[int] = []
    filled = count = 0
    for row in rows:
        nbytes = int(origins.nbytes[row])
        if waiting and filled + nbytes > shard_bytes:
            yield Group(f"{prefix}{count:05d}", sorted(waiting), filled)
            waiting, filled, count = [], 0, count + 1
        waiting.append(row)
        filled += nbytes
    if waiting:
        yield Group(f"{prefix}{count:05d}", sorted(waiting), filled)


def _plain(label: str) -> str:
    """A label as part of a file name."""
    return re.sub(r"[^0-9A-Za-z._-]", "_", label)[:64].lstrip("._-") or "group"
