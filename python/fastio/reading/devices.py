"""Tensors on their way: which device each goes to, the memory there, and the load that fills it.

The framework gives the memory, in ranges; the core reads into pinned staging, verifies, and copies
from there. Nothing is handed over of a load that failed.
"""

from __future__ import annotations

import atexit
import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import fastio._native as _native
from fastio.catalog.dtypes import DTYPES, shape_in_memory
from fastio.display.values import shown
from fastio.errors import MemoryLimitError, UsageError
from fastio.frameworks import Destination, Framework, Place
from fastio.options import Options
from fastio.reading import fetch, split
from fastio.reading.located import LocatedSource

RANGE_BYTES = 2**28
"""Of what is asked of a framework's allocator at once; a larger tensor is asked for alone. The last
bytes are left alone, so that tensors of two ranges never touch: no copy may fill both."""

_GAP = 1
_ALIGNMENT = 256  # the alignment of ranges, and of tensors that do not follow the one before
_ALIGNMENT_LEAST = 16
_PAGE = 4096

Choose = Callable[[str], Destination]


class _Spot(NamedTuple):
    """The place of a tensor: a range of its destination, and the offset in it."""

    range: int
    offset: int
    nbytes: int


class _Ranges:
    """The memory that one destination is asked for. Tensors that follow each other in a file do so
    here, so that they are copied together, unless one would come to lie off its alignment.
    """

    def __init__(self, destination: Destination) -> None:
        self.destination = destination
        self.sizes: list[int] = []
        self.memory: list[tuple[object, int]] = []
        self._follows: tuple[int, int] | None = None  # shard and offset where the last one ends

    def add(self, shard: int, begin: int, nbytes: int, align_bytes: int) -> _Spot:
        offset = self.sizes[-1] if self.sizes else 0
        unit = max(align_bytes, _ALIGNMENT_LEAST)
        if self._follows != (shard, begin) or offset % unit:
            offset = self._start(offset, begin, align_bytes)
        if not self.sizes or offset + nbytes + _GAP > RANGE_BYTES:
            self.sizes.append(0)
            offset = self._start(0, begin, align_bytes)
        self.sizes[-1] = offset + nbytes
        self._follows = shard, begin + nbytes
        return _Spot(len(self.sizes) - 1, offset, nbytes)

    def _start(self, offset: int, begin: int, align_bytes: int) -> int:
        """The next offset for a tensor that does not follow the one before it."""
        if self.destination.ordinal < 0 and begin % align_bytes == 0:
            # Congruent to the file, so that it is read straight to its place.
            return offset + (begin - offset) % _PAGE
        return -(-offset // _ALIGNMENT) * _ALIGNMENT

    def allocate(self) -> None:
        for nbytes in self.sizes:
            self.memory.append(self.destination.allocate(nbytes + _GAP))

    def address(self, spot: _Spot) -> int:
        return self.memory[spot.range][1] + spot.offset

    def wrap(self, spot: _Spot, dtype: str, shape: tuple[int, ...]) -> Any:
        owner = self.memory[spot.range][0] if spot.nbytes else None
        address = self.address(spot) if spot.nbytes else 0
        return self.destination.wrap(owner, address, spot.nbytes, dtype, shape)


class DeviceLoad:
    """Tensors on their way to devices.

    Parameters
    ----------
    located : LocatedSource
    framework : Framework
    choose : callable
        From a name to where the tensor goes.
    verify : bool
    options : Options

    Raises
    ------
    As `fastio.load` does: what cannot fit, or be had, fails here, and nothing is held then.
    """

    def __init__(
        self,
        located: LocatedSource,
        framework: Framework,
        choose: Choose,
        *,
        verify: bool,
        options: Options,
    ) -> None:
        fetch.check_held(located, framework)
        self._located = located
        self._framework = framework
        self._shards = located.shards
        self._ranges: dict[int, _Ranges] = {}
        self._spots: list[tuple[str, _Ranges, _Spot, str, tuple[int, ...]]] = []
        self._lay_out(choose)
        _check_limits(self._ranges, options)
        for ranges in self._ranges.values():
            ranges.allocate()
        self._fill = _native.Fill(
            [fetch.request(shard, verify=verify) for shard in self._shards],
            self._places(),
            options,
            keep_cold=located.keep_cold,
            persistent=located.is_persistent,
            joins_places=True,
            devices={
                ordinal: ranges.destination.stream
                for ordinal, ranges in self._ranges.items()
                if ordinal >= 0
            },
            keep=[ranges.memory for ranges in self._ranges.values()],
        )
        with self._errors_named():
            fetch.within_limit(self._fill.start)

    def _lay_out(self, choose: Choose) -> None:
        def spot(
            name: str, dtype: str, shape: tuple[int, ...], shard: int, begin: int, nbytes: int
        ) -> None:
            destination = choose(name)
            ranges = self._ranges.setdefault(destination.ordinal, _Ranges(destination))
            found = _Spot(0, 0, 0)
            if nbytes:
                found = ranges.add(shard, begin, nbytes, DTYPES[dtype].align_bytes)
            self._spots.append((name, ranges, found, dtype, shape_in_memory(dtype, shape)))

        for index, shard in enumerate(self._located.catalog.shards):
            for row, name in enumerate(shard.names):
                begin, end = int(shard.begins[row]), int(shard.ends[row])
                spot(name, shard.dtypes[row], shard.shapes[row], index, begin, end - begin)
        for name, cut in self._located.cuts.items():
            spot(name, cut.dtype, cut.shape, -1, 0, cut.nbytes)

    def _places(self) -> list[list[Place]]:
        places: list[list[Place]] = []
        spots = iter(self._spots)
        for shard in self._located.catalog.shards:
            places.append([_place(next(spots)) for _ in shard.names])
        for cut, spot in zip(self._located.cuts.values(), spots, strict=True):
            places += [[of_piece] for of_piece in split.places(cut, _place(spot))]
        return places

    @property
    def statistics(self) -> _native.Statistics:
        """The reads until now."""
        return self._fill.statistics

    def done(self) -> bool:
        """Whether it has ended, well or not: `wait` answers at once then."""
        return self._fill.done()

    def failed(self) -> bool:
        """Whether it has ended, and not well."""
        return self._fill.failed()

    def wait(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Wait until every byte is where it belongs.

        Raises
        ------
        ChecksumError, DeviceError, MemoryError, ReadError, ReplicaError
            As `fastio.load` does; no tensor may be handed out then.
        """
        with self._or_nothing():
            self._fill.wait(progress)

    def follow(self, stream: object, progress: Callable[[int, int], None] | None = None) -> None:
        """Wait until every copy is in a stream. Later work in `stream`, or in the current stream
        of each device, finds the tensors there.

        Raises
        ------
        UsageError
            A stream that is none, or one for several devices.
        As `wait` does besides.
        """
        behind = self._behind(stream)
        with self._or_nothing():
            self._fill.follow({each.ordinal: each.stream for each in behind}, progress)
        for ranges in self._ranges.values():
            for owner, _ in ranges.memory:
                for each in behind:
                    ranges.destination.used_on(owner, each)

    def _behind(self, stream: object) -> list[Destination]:
        """A stream, or the current one of each device; where it says its own device, that one's."""
        ordinals = [f"cuda:{ordinal}" for ordinal in self._ranges if ordinal >= 0]
        asked: Iterable[object] = ordinals
        if stream is not None:
            own = getattr(stream, "device", None)
            asked = ordinals if own is None else [own]
            if own is None and len(ordinals) != 1:
                raise UsageError(
                    f"a stream that does not say its device is for a load to one device, and this "
                    f"one has {len(ordinals)}"
                )
        found = (self._framework.destination(device, stream) for device in asked)
        return [each for each in found if each is not None]

    def _errors_named(self) -> contextlib.AbstractContextManager[None]:
        located = self._located
        return fetch.errors_named(located.watch, located.source, self._shards, self._fill.incidents)

    @contextlib.contextmanager
    def _or_nothing(self) -> Iterator[None]:
        """A failed load keeps no memory."""
        try:
            with self._errors_named():
                yield
        except BaseException:
            if self._fill.failed():
                for ranges in self._ranges.values():
                    ranges.memory.clear()
            raise

    def tensors(self) -> dict[str, Any]:
        """Return the tensors, in file order.

        Raises
        ------
        ValueError
            A dtype and shape that do not come to a tensor's bytes.
        """
        return {
            name: ranges.wrap(spot, dtype, shape)
            for name, ranges, spot, dtype, shape in self._spots
        }


def _place(placed: tuple[str, _Ranges, _Spot, str, tuple[int, ...]]) -> Place:
    _, ranges, spot, _, _ = placed
    address = ranges.address(spot) if spot.nbytes else 0
    return Place(address, 1, (spot.nbytes,), (1,), ranges.destination.ordinal)


def _check_limits(ranges: Mapping[int, _Ranges], options: Options) -> None:
    for ordinal, each in ranges.items():
        on_device = ordinal >= 0
        limit = options.device_memory_limit_bytes if on_device else options.memory_limit_bytes
        if limit is not None and sum(each.sizes) > limit:
            raise MemoryLimitError(sum(each.sizes), limit)


def chooser(
    framework: Framework, device: object, device_map: Mapping[str, object] | None, stream: object
) -> Choose | None:
    """Return where each tensor goes, by its name; None where all stay on the CPU.

    Raises
    ------
    DeviceError
        If the framework has no such device here.
    UsageError
        `device` and `device_map` at once, a device that there is not, a stream without a device;
        and, when it is called, a name that the map does not have.
    """
    if device_map is None:
        destination = _destination(framework, device, stream)
        return None if destination is None else lambda _: destination
    if device not in (None, "cpu"):
        raise UsageError("device= and device_map= cannot both be given")
    if stream is not None:
        raise UsageError("stream= is for one device, and device_map= may have several")
    if not isinstance(device_map, Mapping):
        raise TypeError(f"device_map must be a mapping, not {type(device_map).__name__}")
    found = {
        prefix: _destination(framework, to, None) or OnHost(framework)
        for prefix, to in device_map.items()
    }
    if all(each.ordinal < 0 for each in found.values()) and "" in found:
        return None
    prefixes = sorted(found, key=len, reverse=True)

    def choose(name: str) -> Destination:
        for prefix in prefixes:
            if not prefix or name == prefix or name.startswith(f"{prefix}."):
                return found[prefix]
        raise UsageError(f"device_map has no place for tensor {shown(name)}")

    return choose


def _destination(framework: Framework, device: object, stream: object) -> Destination | None:
    found = framework.destination(device, stream)
    if found is None and framework.mover_to(device) is not None:
        raise UsageError(
            f"device={device!r}: loads go to the CPU and to CUDA; load to the CPU, then move"
        )
    return found


def onto_the_host(framework: Framework) -> Choose:
    """Return what sends every tensor to memory of the host.

    Raises
    ------
    Nothing.
    """
    here = OnHost(framework)
    return lambda _: here


class OnHost:
    """The destination of tensors that stay on the CPU."""

    ordinal = -1
    stream = 0

    def __init__(self, framework: Framework) -> None:
        self._framework = framework

    def allocate(self, nbytes: int) -> tuple[object, int]:
        """Return memory, and its address."""
        memory = split.memory(nbytes, huge_pages=True)
        return memory, _native.address_of(memory)

    def wrap(
        self, owner: Any, address: int, nbytes: int, dtype: str, shape: tuple[int, ...]
    ) -> Any:
        """Return a part of that memory as a tensor."""
        if owner is None:
            owner, address = self.allocate(0)
        begin = address - _native.address_of(owner)
        return self._framework.adopt(owner[begin : begin + nbytes], dtype, shape)

    def used_on(self, owner: object, other: Destination) -> None:
        """Memory here is in no stream."""


def trim() -> int:
    """Give the pinned memory that no load uses back to the system; return its bytes.

    Examples
    --------
    >>> freed_bytes = fastio.trim()
    >>> fastio.trim()
    0
    """
    return _native.trim_pinned()


atexit.register(trim)
