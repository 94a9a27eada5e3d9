"""The tensors of a located source, read into memory that exists."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import fastio._native as _native
from fastio.catalog import TensorInfo
from fastio.catalog.dtypes import shape_in_memory
from fastio.display.progress import progress_bar
from fastio.display.values import shown
from fastio.errors import FastioError
from fastio.frameworks import Framework, Place, check_dtype, framework_of
from fastio.frameworks.handed import problem_of
from fastio.options import Options
from fastio.reading import fetch, split, verification
from fastio.reading.agreement import Agreement
from fastio.reading.loading import bytes_of, describe, note_events, summed_up
from fastio.reading.located import LocatedSource
from fastio.reading.targets import Target, check_apart, filled_with_others, same_memory
from fastio.reading.verification import Verify
from fastio.report import Report


def fill(
    find: Callable[[], LocatedSource],
    tensors: Mapping[str, Any],
    *,
    verify: Verify,
    strict: bool,
    options: Options,
    progress: bool,
    report: Report,
) -> None:
    """Fill arrays and tensors with what is found, and the report: see `fastio.load_into`.

    Raises
    ------
    As `fastio.load_into` does.
    """
    report.clear()
    begun, cpu_begun = time.perf_counter(), time.process_time()
    located = find()
    options = located.narrowed(options)
    here = _names_here(located, tensors)
    if strict:
        located.catalog.absent.require_none()
    if strict and len(here) < len(located):
        missing = next(name for name in located if name not in tensors)
        raise ValueError(
            f"tensors has no {shown(missing)}, and {len(located) - len(here)} of the "
            f"{len(located)} names in {located.source} are missing; strict=False fills a part"
        )
    wanted = located.select(here)
    verification.check(located, wanted, verify)
    targets = _targets(wanted, tensors)
    same = same_memory(target for target in targets.values() if 0 not in target.place.shape)
    check_apart(
        [
            target
            for name, target in targets.items()
            if name not in same and 0 not in target.place.shape
        ]
    )
    agreement = Agreement(wanted, verify=bool(verify), options=options)
    agreement.check(same, targets)
    if same:
        wanted = wanted.select([name for name in here if name not in same])
    shards = wanted.shards
    places = _places(wanted, targets)
    native = _native.Fill(
        [fetch.request(shard, verify=bool(verify)) for shard in shards],
        places,
        options,
        keep_cold=wanted.keep_cold,
        persistent=wanted.is_persistent,
        devices=_devices(tensors, places),
    )
    for tensor in tensors.values():
        cast(Framework, framework_of(tensor)).note_write(tensor)
    nbytes = bytes_of(wanted) if progress else 0
    try:
        with (
            summed_up(wanted),
            progress_bar(located.source, nbytes, shown=progress) as advance,
            fetch.errors_named(wanted.watch, located.source, shards, native.incidents),
        ):
            fetch.within_limit(lambda: native.run(advance))
    except FastioError as error:
        whole = _complete(wanted, native)
        error.complete = (*whole, *(name for name, first in same.items() if first.name in whole))
        raise
    describe(report, wanted, verified=bool(verify))
    report.take(native.statistics)
    for statistics in agreement.statistics:
        report.add(statistics)
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
    found = [framework.destination(device, None) for device, framework in asked.values()]
    return {each.ordinal: each.stream for each in found if each is not None}


def _complete(wanted: LocatedSource, fill: _native.Fill) -> tuple[str, ...]:
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


def _names_here(located: LocatedSource, tensors: Mapping[str, Any]) -> tuple[str, ...]:
    """The names that the source has. It need not have one of a tensor that is the same memory as
    another one, as a model's tied parameters are.
    """
    names: tuple[Any, ...] = tuple(tensors)
    here = tuple(name for name in names if name in located)
    if len(here) < len(names):
        missing = [name for name in names if isinstance(name, str) and name not in located]
        filled = filled_with_others(missing, here, tensors)
        if len(here) + len(filled) < len(names):
            located.select([name for name in names if name not in filled])  # says which, and why
    return here


def _targets(wanted: LocatedSource, tensors: Mapping[str, Any]) -> dict[str, Target]:
    """The memory of each tensor, in the order of the source; refuses what cannot be filled."""
    found = {}
    for shard in wanted.catalog.shards:
        for name, dtype, shape in zip(shard.names, shard.dtypes, shard.shapes, strict=True):
            info = TensorInfo(name, dtype, shape, shard.path, 0, 0)
            found[name] = Target.of(name, _place(info, tensors[name]))
    for name, cut in wanted.cuts.items():
        found[name] = Target.of(name, _place(cut.info, tensors[name]))
    return found


def _places(wanted: LocatedSource, targets: Mapping[str, Target]) -> list[list[Place]]:
    """The places of each tensor of each shard, and of each piece."""
    places = [[targets[name].place for name in shard.names] for shard in wanted.catalog.shards]
    for name, cut in wanted.cuts.items():
        places += [[of_piece] for of_piece in split.places(cut, targets[name].place)]
    return places


def _place(info: TensorInfo, tensor: Any) -> Place:
    framework = framework_of(tensor)
    if framework is None:
        raise TypeError(f"tensor {shown(info.name)} {problem_of(tensor)}")
    if info.dtype not in framework.DTYPES or info.dtype == "F4":
        check_dtype(info, framework)
    try:
        place = framework.place_of(tensor, info.dtype)
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
