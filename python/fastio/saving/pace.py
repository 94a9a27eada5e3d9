"""Past the page cache or through it: which of them a filesystem writes faster, found by trying.

O_DIRECT writes are twice as fast as others on a local disk, and up to five times slower on some
network filesystems. Nothing is written only to find out: of a large file the first blocks go one
way, the next ones the other, and the rest the faster way.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import fastio._native as _native
from fastio.host.durability import sync_file
from fastio.options import Options

# Enough for a rate, of each mode; and how much larger a file has to be to be worth it.
_TRIAL_BYTES = 2**25
_TRIED_BYTES_MIN = 32 * _TRIAL_BYTES
# O_DIRECT keeps the page cache for others; the cache has to be better by this to be preferred.
_FASTER = 1.1

Progress = Callable[[int, int], None] | None


class WriteMode(NamedTuple):
    """How a file is written.

    Attributes
    ----------
    leg : {"direct", "buffered", "in_order"}
    reason : str
    """

    leg: str
    reason: str


# By disk and durability; a forked child learns nothing new.
_found: dict[tuple[int, bool], WriteMode] = {}


def write_data(
    save: _native.Save, options: Options, *, durable: bool, progress: Progress
) -> WriteMode:
    """Write all data of a file.

    Parameters
    ----------
    save : _native.Save
    options : Options
        `cache` decides: ``bypass``, ``keep``, or what is found to be faster.
    durable : bool
        Whether an fsync follows, whose time then counts.
    progress : callable, optional

    Returns
    -------
    WriteMode
        The one that all was written, or most of it.

    Raises
    ------
    WriteError, MemoryLimitError
        As `fastio.save` has them.
    """
    refusal = save.file.direct_refusal()
    known = _found.get((save.file.disk, durable))
    if refusal:
        mode = WriteMode("buffered", f"through the page cache: {refusal}")
    elif options.cache == "bypass":
        mode = WriteMode("direct", "asked for by cache='bypass'")
    elif options.cache == "keep":
        mode = WriteMode("buffered", "asked for by cache='keep'")
    elif known is not None:
        mode = known
    elif save.block_count <= 1 and not durable:
        mode = WriteMode("buffered", "through the page cache: one block, which nobody waits for")
    elif save.block_count * save.block_bytes < _TRIED_BYTES_MIN:
        mode = WriteMode("direct", "too few bytes to try what is faster here")
    else:
        return _try_both(save, durable=durable, progress=progress)
    save.run(mode.leg, 0, save.block_count, progress)
    return mode


def write_uncut(save: _native.Save, *, progress: Progress) -> WriteMode:
    """Write all data of a file that cannot be cut, and nothing behind its end.

    Raises
    ------
    WriteError, MemoryLimitError
        As `fastio.save` has them.
    """
    mode = WriteMode("buffered", "through the page cache: a last direct write would have to be cut")
    save.run(mode.leg, 0, save.block_count, progress)
    return mode


def write_in_order(save: _native.Save, why: str, *, progress: Progress) -> WriteMode:
    """Write all data of a file, one byte after another; its header is written.

    Raises
    ------
    WriteError, MemoryLimitError
        As `fastio.save` has them.
    """
    mode = WriteMode("in_order", f"in order, through the page cache: {why}")
    save.run(mode.leg, 0, save.block_count, progress)
    return mode


def _try_both(save: _native.Save, *, durable: bool, progress: Progress) -> WriteMode:
    count = -(-_TRIAL_BYTES // save.block_bytes)
    seconds = {}
    for at, leg in enumerate(("direct", "buffered")):
        begin = time.perf_counter()
        save.run(leg, at * count, (at + 1) * count, progress)
        if leg == "buffered" and durable:
            sync_file(save.file)
        seconds[leg] = time.perf_counter() - begin
    rates = {leg: count * save.block_bytes / taken / 1e9 for leg, taken in seconds.items()}
    leg = "buffered" if rates["buffered"] > _FASTER * rates["direct"] else "direct"
    mode = WriteMode(
        leg,
        f"tried on {save.file.filesystem}: {rates['direct']:.2f} GB/s direct, "
        f"{rates['buffered']:.2f} through the page cache{' and to the disk' if durable else ''}",
    )
    _found[save.file.disk, durable] = mode
    save.run(leg, 2 * count, save.block_count, progress)
    return mode
