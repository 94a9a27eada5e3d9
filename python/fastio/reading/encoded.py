"""Loads of encoded tensors and of raw ones with them: read in a window, decoded as they come."""

from __future__ import annotations

import bisect
import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec
import numpy as np

import fastio._native as _native
from fastio.catalog import Catalog, Shard
from fastio.catalog.dtypes import shape_in_memory
from fastio.catalog.encodings import StoredPart
from fastio.display.progress import Advance
from fastio.errors import MemoryLimitError
from fastio.frameworks import Framework
from fastio.options import Options
from fastio.reading import fetch
from fastio.reading.ahead import concerns, empty, wrapped
from fastio.reading.decoding import Account, Bytes, Decoded, on_threads
from fastio.reading.fetch import DATA_ERRORS, DataError
from fastio.reading.located import LocatedSource
from fastio.reading.stored import Need, Row, ascending
from fastio.reading.tally import RunningJob, Tally

WINDOW_BYTES = 2**28
_UINT8 = np.dtype(np.uint8)


def in_file_order(
    located: LocatedSource,
    framework: Framework,
    *,
    verify: bool,
    options: Options,
    window_bytes: int,
    tally: Tally,
) -> Iterator[tuple[str, Any]]:
    """Yield each tensor of a source that is in one piece, by name, read and decoded in a window.

    Half of the window is for decoded tensors, and more where one of them is larger.

    Raises
    ------
    FormatError
        When the iteration comes to a tensor that cannot be decoded.
    ChecksumError, MemoryError, MemoryLimitError, ReadError
        As `fastio.load` does, when the iteration comes to what is damaged.
    """
    # A generator: nothing is read before the first tensor is asked for.
    catalog = located.catalog
    need = Need.of(catalog, verify=verify)
    room = max(need.tensor_bytes, window_bytes // 2)
    stored = max(window_bytes - room - need.scratch_bytes, need.least_bytes)
    yield from EncodedLoad(
        located,
        catalog,
        framework,
        verify=verify,
        options=options,
        room=(stored, room),
        tally=tally,
    )


def start_all(
    located: LocatedSource,
    catalog: Catalog,
    framework: Framework,
    *,
    verify: bool,
    options: Options,
    tally: Tally,
    held_bytes: int = 0,
) -> EncodedLoad:
    """Start to read the tensors of a source that a catalog has, to be kept within the memory limit.

    Parameters
    ----------
    held_bytes : int
        Bytes that count against the limit besides.

    Raises
    ------
    MemoryLimitError
        The tensors, and what reading them takes, are above the limit.
    ReadError
        If asking for the state of a file fails.
    """
    need = Need.of(catalog, verify=verify)
    kept = sum(shard.nbytes() for shard in catalog.shards)
    limit, stored = options.memory_limit_bytes, WINDOW_BYTES
    if limit is not None:
        held = held_bytes + kept + need.scratch_bytes
        if held + need.stored_bytes > limit:
            raise MemoryLimitError(held + need.stored_bytes, limit)
        stored = min(stored, limit - held)
    return EncodedLoad(
        located,
        catalog,
        framework,
        verify=verify,
        options=options,
        room=(stored, kept),
        tally=tally,
    )


def alone(
    located: LocatedSource,
    shard: Shard,
    row: int,
    framework: Framework,
    *,
    verify: bool,
    options: Options,
    tally: Tally,
) -> Any:
    """Return one tensor of a source, read and decoded now.

    Raises
    ------
    FormatError
        It cannot be decoded.
    ChecksumError, MemoryError, MemoryLimitError, ReadError
        As `fastio.load` does.
    """
    catalog = Catalog([shard.take([row])], shard.path)
    load = start_all(located, catalog, framework, verify=verify, options=options, tally=tally)
    ((_, tensor),) = load
    return tensor


def told(
    load: Iterable[tuple[str, Any]], catalog: Catalog, progress: Advance | None
) -> Iterator[tuple[str, Any]]:
    """Yield what a load does, and tell of its progress: bytes of tensors.

    Raises
    ------
    What the load does.
    """
    if progress is None:
        yield from load
        return
    total, done = sum(shard.nbytes() for shard in catalog.shards), 0
    for name, tensor in load:
        done += catalog.info(name).nbytes
        progress(done, total)
        yield name, tensor
        del tensor  # before the next one is decoded


class EncodedLoad:
    """One job that reads raw tensors and stored bytes, and decodes these as they come.

    The job starts at once; it is iterated once, for names and tensors in file order. An encoded
    tensor comes with its last byte.

    Parameters
    ----------
    located : LocatedSource
    catalog : Catalog
        The tensors of it that are read.
    framework : Framework
    verify : bool
    options : Options
    room : (int, int)
        Bytes that were read and not yet decoded or yielded; and bytes of tensors that were decoded
        and not yet yielded. A larger one is decoded alone.
    tally : Tally
    """

    def __init__(
        self,
        located: LocatedSource,
        catalog: Catalog,
        framework: Framework,
        *,
        verify: bool,
        options: Options,
        room: tuple[int, int],
        tally: Tally,
    ) -> None:
        self._located = located
        self._catalog = catalog
        self._framework = framework
        self._verify = verify
        self._options = options
        stored_bytes, self._room_bytes = room
        self._tally = tally
        self._rows: list[Row] = []
        self._firsts: list[int] = []  # of each shard of the job: its first row
        shards = [self._request(*some) for some in ascending(catalog)]
        with tally.job():
            self._native = fetch.stream(
                located,
                Catalog(shards, catalog.source),
                verify=verify,
                options=options,
                window_bytes=stored_bytes,
            )
        self._underway = RunningJob(tally, self._native)
        self._current: Decoded | None = None
        self._account = Account()
        self._process = os.getpid()

    def _request(self, shard: Shard, rows: list[Row], extents: list[tuple[int, int]]) -> Shard:
        """A shard whose rows, without names, are those that the job reads."""
        self._firsts.append(len(self._rows))
        self._rows += rows
        begins, ends = np.array(extents, np.int64).reshape(-1, 2).T
        return msgspec.structs.replace(
            shard,
            names=[],
            dtypes=[],
            shapes=[],
            begins=begins.copy(),
            ends=ends.copy(),
            encodings=None,
        )

    def close(self) -> None:
        """Cancel it, perhaps from another thread: whoever iterates gets ValueError."""
        self._native.close()

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        failed: DataError | None = None
        reached = 0
        try:
            for region, (index, first, last) in enumerate(self._native.regions()):
                begin, end = self._firsts[index] + first, self._firsts[index] + last
                yield from self._tensors(None, reached, begin)
                reached = begin
                try:
                    loaded = self._taken(region)
                except DATA_ERRORS as error:
                    # Whatever was read ahead stops with it; what lies before is not damaged.
                    failed = error
                    self._native.close()
                    break
                yield from self._tensors(loaded, begin, end)
                reached = end
                del loaded
                self._native.release(region)
            if failed is None:
                yield from self._tensors(None, reached, len(self._rows))
            else:
                yield from self._up_to(failed, reached)
        finally:
            failed = None  # its trace holds this frame, and so the files
            self._current = None
            self._end()

    def _taken(self, region: int) -> _native.Loaded:
        with self._underway.waited_for(), self._errors_named():
            return self._native.take(region)

    def _errors_named(self) -> contextlib.AbstractContextManager[None]:
        return fetch.errors_named(
            self._located.watch,
            self._catalog.source,
            self._catalog.shards,
            self._native.incidents,
        )

    def _tensors(
        self, loaded: _native.Loaded | None, begin: int, end: int
    ) -> Iterator[tuple[str, Any]]:
        """The tensors that end in some rows. Rows without bytes are in no region."""
        for first, last in self._groups(begin, end):
            come = deque(self._decode(loaded, first, last))
            while come:
                yield _made(*come.popleft())  # nothing here keeps it

    def _groups(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """Cut rows into runs whose decoded tensors have room together."""
        first, held = begin, 0
        for at in range(begin, end):
            row = self._rows[at]
            shard = self._catalog.shards[row.shard]
            if shard.parts_of(row.row) is None:
                continue
            if at == begin or row.is_first:
                nbytes = shard.nbytes_of(row.row)
                if held and held + nbytes > self._room_bytes:
                    yield first, at
                    first, held = at, 0
                held += nbytes
        if first < end:
            yield first, end

    def _decode(
        self, loaded: _native.Loaded | None, first: int, last: int
    ) -> list[tuple[str, Callable[[], Any]]]:
        """Decode the parts in some rows; return the tensors that end there, to be made."""
        work: list[Callable[[], None]] = []
        ended: list[tuple[str, Callable[[], Any]]] = []
        stored_bytes = 0
        for at in range(first, last):
            row = self._rows[at]
            shard = self._catalog.shards[row.shard]
            name = shard.names[row.row]
            if shard.parts_of(row.row) is None:
                ended.append((name, partial(self._raw, loaded, shard, row.row, at)))
                continue
            if row.is_first:
                self._current = Decoded(shard, row.row)
            assert self._current is not None
            if row.part is not None:
                stored = self._stored(loaded, row.part, at)
                work.append(partial(self._current.decode, row.part, stored))
                stored_bytes += stored.nbytes
            if row.is_last:
                ended.append((name, partial(self._encoded, self._current, shard, row.row)))
                self._current = None
        on_threads(work, stored_bytes)
        return ended

    def _batch_of(self, at: int) -> tuple[int, int]:
        """The shard of the job that has a row, and the row's place in it."""
        batch = bisect.bisect_right(self._firsts, at) - 1
        return batch, at - self._firsts[batch]

    def _stored(self, loaded: _native.Loaded | None, part: StoredPart, at: int) -> Bytes:
        if loaded is None or part.begin == part.end:
            return np.empty(0, np.uint8)
        batch, place = self._batch_of(at)
        (stored,) = loaded.numpy(batch, [_UINT8], [(part.end - part.begin,)], place)
        return stored

    def _raw(self, loaded: _native.Loaded | None, shard: Shard, row: int, at: int) -> Any:
        self._tally.took(shard.nbytes_of(row))
        if loaded is None:
            return empty(shard, row, self._framework)
        batch, place = self._batch_of(at)
        return wrapped(loaded, batch, shard, row, place, self._framework)

    def _encoded(self, decoded: Decoded, shard: Shard, row: int) -> Any:
        memory = decoded.memory()
        self._tally.took(memory.nbytes)
        self._account.note(shard, row, shard.parts_of(row) or ())
        dtype = shard.dtypes[row]
        return self._framework.adopt(memory, dtype, shape_in_memory(dtype, shard.shapes[row]))

    def _up_to(self, failed: DataError, reached: int) -> Iterator[tuple[str, Any]]:
        """The tensors before a failure, each read on its own."""
        unbound = replace(self._options, memory_limit_bytes=None)
        for row in self._rows[reached:]:
            if not row.is_last:
                continue
            shard = self._catalog.shards[row.shard]
            if concerns(failed, shard, row.row):
                break
            tensor = alone(
                self._located,
                shard,
                row.row,
                self._framework,
                verify=self._verify,
                options=unbound,
                tally=self._tally,
            )
            yield shard.names[row.row], tensor
        raise failed

    def _end(self) -> None:
        if self._process == os.getpid():  # in a child, locks of the job may be held for good
            with self._errors_named():
                self._underway.end()
            self._tally.decoded(self._account.decodings())
        self._native.close()


def _made(name: str, make: Callable[[], Any]) -> tuple[str, Any]:
    return name, make()
