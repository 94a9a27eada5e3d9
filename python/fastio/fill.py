"""load_into: the bytes of a source into memory that exists."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast

import numpy as np

from fastio import _native, fetch, joined
from fastio.catalog import TensorInfo, shape_in_memory
from fastio.errors import FastioError
from fastio.frameworks import Framework, Place, check_dtype, framework_of
from fastio.loading import (
    Verify,
    bytes_of,
    check_kind,
    check_verify,
    describe,
    note_events,
    summed_up,
)
from fastio.locate import locate
from fastio.located import Located
from fastio.options import Options
from fastio.progress import progress_bar
from fastio.report import Report
from fastio.shown import shown

# Deciding whether two interleaved layouts share a byte may take forever; beyond this they are
# refused.
_OVERLAP_WORK_MAX = 10_000


def load_into(
    source: str | os.PathLike[str] | list[Any] | tuple[Any, ...],
    tensors: Mapping[str, Any],
    *,
    verify: bool | Literal["require"] = True,
    strict: bool = True,
    options: Options | None = None,
    progress: bool = False,
    report: Report | None = None,
) -> None:
    """Fill arrays and tensors that exist, verified while they are read.

    Everything is checked before the first byte. There is no second copy of the model: memory whose
    address is congruent to the offset in the file (modulo what O_DIRECT needs, mostly 512 bytes) is
    read straight into, all other by way of a few blocks (``lanes * queue_depth`` of them, which
    `Options.memory_limit_bytes` bounds).

    Parameters
    ----------
    source : path or list of paths
        As `fastio.load` takes it.
    tensors : mapping of str to numpy.ndarray or torch.Tensor
        By name; of the dtype and the shape in the file (packed F4: half of its last axis), with any
        strides, writable, on the CPU or a CUDA device (which is filled by way of pinned memory),
        none overlapping another.
    verify : bool or "require"
        As `fastio.load` takes it.
    strict : bool
        Whether `tensors` must have every name of the source. Names that the source has not are
        refused always.
    options : Options, optional
    progress : bool
        Show a progress bar.
    report : Report, optional
        Filled with what was done.

    Raises
    ------
    TensorNotFoundError
        A name that the source has not.
    TypeError, ValueError
        A tensor that cannot be filled, or with `strict` a missing name; nothing was written.
    FileNotFoundError, IsADirectoryError, FormatError
        As `fastio.load` does; nothing was written.
    ChecksumError, ReadError
        It failed midway. No byte that was not verified is left in the tensors, but what they hold
        is undefined, except for those that the error lists in `complete`.
    DeviceError
        What the driver of a device refused; midway, it is as with the two above.
    MemoryLimitError
        A limit below one block; nothing was written.
    """
    check_verify(verify)
    check_kind("options", options, Options)
    check_kind("report", report, Report)
    if not isinstance(tensors, Mapping):
        raise TypeError(f"tensors must be a mapping of names, not {type(tensors).__name__}")
    options = options if options is not None else Options()
    fill_found(
        lambda: locate(source, tuple(tensors) if not strict else None),
        tensors,
        verify=verify,
        strict=strict,
        options=options,
        progress=progress,
        report=report if report is not None else Report(),
    )


def fill_found(
    find: Callable[[], Located],
    tensors: Mapping[str, Any],
    *,
    verify: Verify,
    strict: bool,
    options: Options,
    progress: bool,
    report: Report,
) -> None:
    """Fill arrays and tensors with what is found, and the report: what `load_into` does.

    Raises
    ------
    As `load_into` does.
    """
    report.clear()
    begun, cpu_begun = time.perf_counter(), time.process_time()
    located = find()
    wanted = located.select(tuple(tensors))
    if strict and len(wanted) < len(located):
        missing = next(name for name in located if name not in tensors)
        raise ValueError(
            f"tensors has no {shown(missing)}, and {len(located) - len(wanted)} of the "
            f"{len(located)} names in {located.source} are missing; strict=False fills a part"
        )
    shards = wanted.shards
    if verify == "require":
        fetch.require_tables(shards)
    places = _places(wanted, tensors)
    fill = _native.Fill(
        [fetch.request(shard, verify=bool(verify)) for shard in shards],
        places,
        options,
        keep_cold=fetch.keep_cold(shards),
        persistent=fetch.is_persistent(shards),
        devices=_devices(tensors, places),
    )
    for tensor in tensors.values():
        cast(Framework, framework_of(tensor)).note_write(tensor)
    nbytes = bytes_of(wanted) if progress else 0
    try:
        with (
            summed_up(wanted),
            progress_bar(located.source, nbytes, shown=progress) as advance,
            fetch.errors_named(located.source, shards, fill.incidents),
        ):
            fetch.within_limit(lambda: fill.run(advance))
    except FastioError as error:
        error.complete = _complete(wanted, fill)
        raise
    describe(report, wanted, verified=bool(verify))
    report.take(fill.statistics)
    note_events(report, wanted)
    report.seconds = time.perf_counter() - begun
    report.cpu_seconds = time.process_time() - cpu_begun
    report.log("filled tensors from %s", located.source)


def _devices(tensors: Mapping[str, Any], places: Sequence[Sequence[Place]]) -> dict[int, int]:
    """The devices that places are on, by ordinal the stream whose work comes first."""
    if all(place.device < 0 for of_shard in places for place in of_shard):
        return {}
    asked = {
        str(device): (device, cast(Framework, framework_of(tensor)))
        for tensor in tensors.values()
        if (device := getattr(tensor, "device", "cpu")) != "cpu"
    }
    found = [held_by.destination(device, None) for device, held_by in asked.values()]
    return {each.ordinal: each.stream for each in found if each is not None}


def _complete(wanted: Located, fill: _native.Fill) -> tuple[str, ...]:
    """The tensors that have all their bytes."""
    count = len(wanted.catalog.shards)
    whole = [
        name
        for index, shard in enumerate(wanted.catalog.shards)
        for name, placed in zip(shard.names, fill.placed(index), strict=True)
        if placed
    ]
    for name, cut in wanted.cuts.items():
        if all(all(fill.placed(count + at)) for at in range(len(cut.pieces))):
            whole.append(name)
        count += len(cut.pieces)
    return tuple(whole)


class _Target(NamedTuple):
    begin: int  # addresses of its memory
    end: int
    name: str
    place: Place


def _places(wanted: Located, tensors: Mapping[str, Any]) -> list[list[Place]]:
    """Where each tensor of each shard goes, and each piece; refuses what cannot be filled."""
    targets: list[_Target] = []
    places = []
    for shard in wanted.catalog.shards:
        of_shard = []
        for name, dtype, shape in zip(shard.names, shard.dtypes, shard.shapes, strict=True):
            place = _place(TensorInfo(name, dtype, shape, shard.path, 0, 0), tensors[name])
            of_shard.append(place)
            if 0 not in place.shape:
                targets.append(_target(name, place))
        places.append(of_shard)
    for name, cut in wanted.cuts.items():
        place = _place(cut.info, tensors[name])
        places += [[of_piece] for of_piece in joined.places(cut, place)]
        targets.append(_target(name, place))
    _check_apart(targets)
    return places


def _place(info: TensorInfo, tensor: Any) -> Place:
    held_by = framework_of(tensor)
    if held_by is None:
        raise TypeError(
            f"tensor {shown(info.name)} is a {type(tensor).__name__}, and no numpy array or "
            "torch tensor"
        )
    if info.dtype not in held_by.DTYPES or info.dtype == "F4":
        check_dtype(info, held_by)
    try:
        place = held_by.place_of(tensor, info.dtype)
        _check_shape(place, shape_in_memory(info.dtype, info.shape))
    except (TypeError, ValueError) as error:
        raise type(error)(f"tensor {shown(info.name)} {error}") from None
    return place


def _check_shape(place: Place, expected: tuple[int, ...]) -> None:
    if place.shape != expected:
        raise ValueError(f"has the shape {list(place.shape)}, and not {list(expected)}")
    if 0 in place.shape:  # its strides may be anything
        return
    # Sufficient, and all that slices, transposes and broadcasts come to: each axis steps over what
    # those with smaller strides span.
    span = place.item_bytes
    for stride, length in sorted(
        (abs(stride), length)
        for stride, length in zip(place.strides, place.shape, strict=True)
        if length > 1
    ):
        if stride < span:
            raise ValueError("overlaps itself")
        span = stride * (length - 1) + span


def _target(name: str, place: Place) -> _Target:
    low = high = 0
    for stride, length in zip(place.strides, place.shape, strict=True):
        reach = stride * (length - 1)
        low, high = low + min(reach, 0), high + max(reach, 0)
    return _Target(place.address + low, place.address + high + place.item_bytes, name, place)


def _check_apart(targets: list[_Target]) -> None:
    targets.sort()
    reaching: list[_Target] = []  # beyond where the next one begins
    for target in targets:
        reaching = [other for other in reaching if other.end > target.begin]
        for other in reaching:
            if _overlap(other, target):
                raise ValueError(f"tensors {shown(other.name)} and {shown(target.name)} overlap")
        reaching.append(target)


def _overlap(one: _Target, other: _Target) -> bool:
    """Whether two layouts share a byte; those that interleave need not."""
    base = min(one.begin, other.begin)
    memory = np.lib.stride_tricks.as_strided(
        np.empty(1, np.uint8), (max(one.end, other.end) - base,), (1,)
    )
    one_view, other_view = (
        np.ndarray(
            (*each.place.shape, each.place.item_bytes),
            np.uint8,
            memory,
            each.place.address - base,
            (*each.place.strides, 1),
        )
        for each in (one, other)
    )
    try:
        return np.shares_memory(one_view, other_view, max_work=_OVERLAP_WORK_MAX)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True
