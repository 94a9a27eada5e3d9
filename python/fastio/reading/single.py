"""Single tensors of a source, and parts of them.

They come out of the page cache, from a loop's read-ahead, from kept chunks, or are read now.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

import fastio._native as _native
from fastio.catalog import Catalog, Shard
from fastio.catalog.dtypes import DTYPES, shape_in_memory
from fastio.errors import MemoryLimitError, UsageError
from fastio.frameworks import Framework, check_dtype
from fastio.options import Options
from fastio.reading import encoded, fetch, parts, slicing, split, stored
from fastio.reading.ahead import Loop, ReadAhead, alone, concerns, empty
from fastio.reading.encoded_parts import EncodedBytes
from fastio.reading.fetch import DATA_ERRORS, DataError
from fastio.reading.located import Cut, LocatedSource
from fastio.reading.tally import Tally

_AHEAD_BYTES = 2**28
_MISSES_MAX = 8  # then the loop has ended, and tensors read ahead only take memory

_Position = tuple[int, int]


class Access:
    """How one reader gets at tensors one by one. Several threads may, at once.

    Parameters
    ----------
    located : LocatedSource
    framework : Framework
    verify : bool
    options : Options
    tally : Tally
        Counts what is read.
    """

    def __init__(
        self,
        located: LocatedSource,
        framework: Framework,
        *,
        verify: bool,
        options: Options,
        tally: Tally,
    ) -> None:
        self._located = located
        self._framework = framework
        self._verify = verify
        self._options = options
        self._tally = tally
        self._closed = False
        self._mapped = [self._map(shard) for shard in located.catalog.shards]
        self._reads = parts.PartReader(
            located.watch, verify=verify, options=options, count=tally.count_job
        )
        self._loop = Loop(located.catalog)
        self._has_encoded = stored.is_any(located.shards)
        self._ahead: ReadAhead | None = None
        self._misses = 0  # in a row: tensors that were not read ahead
        self._reads_ahead = True
        self._failure: DataError | None = None  # of a read ahead
        self._lock = threading.RLock()  # a signal handler may read, too
        self._is_taking = False
        _alive.add(self)

    def _map(self, shard: Shard) -> _native.MappedFile | None:
        if self._options.mapping == "never":
            return None  # and leaves files unopened
        request = fetch.request(shard, verify=self._verify)
        mapped = _native.MappedFile.open(request, self._options, self._tally.active_time)
        if mapped is not None:
            self._tally.maps(mapped)
        return mapped

    def _shard(self, index: int) -> tuple[Shard, _native.MappedFile | None]:
        try:
            return self._located.catalog.shards[index], self._mapped[index]
        except IndexError:  # another thread has closed it meanwhile
            raise UsageError(f"the reader of {self._located.source} is closed") from None

    # ---- tensors, wherever they lie

    def all(self, position: _Position | Cut) -> Any:
        """Return a whole tensor, of its own memory.

        Raises
        ------
        As `tensor` does.
        """
        return self.cut(position) if isinstance(position, Cut) else self.tensor(position)

    def some(self, position: _Position | Cut, index: Any) -> Any:
        """Return a part of a tensor, of its own memory; reads what that needs.

        Raises
        ------
        As `part` does.
        """
        if isinstance(position, Cut):
            return self.part_of_cut(position, index)
        return self.part(position, index)

    # ---- whole tensors

    def tensor(self, position: _Position) -> Any:
        """Return a tensor of its own memory.

        Raises
        ------
        ChecksumError, MemoryError, MemoryLimitError, ReadError
            As `fastio.load` does.
        TypeError
            A dtype that the framework cannot hold.
        UsageError
            If it is closed.
        """
        index, row = position
        shard, mapped = self._shard(index)
        dtype, shape = _checked_dtype(self._located.catalog, shard, row, self._framework)
        if shard.parts_of(row) is not None:
            return encoded.alone(
                self._located,
                shard,
                row,
                self._framework,
                verify=self._verify,
                options=self._options,
                tally=self._tally,
            )
        if mapped is not None:
            try:
                return self._framework.wrap_mapped(mapped, row, dtype, shape)
            except Exception:
                with fetch.errors_of(self._located):
                    raise
        if shard.begins[row] == shard.ends[row]:
            return empty(shard, row, self._framework)
        with self._lock:
            self._shard(index)
            self._raise_failure(position)
            tensor = self._from_ahead(position) if self._reads_ahead else None
        if tensor is None:
            tensor = self._from_chunks(shard, row)
        if tensor is not None:
            return tensor
        return alone(
            self._located,
            shard,
            row,
            self._framework,
            verify=self._verify,
            options=self._options,
            tally=self._tally,
        )

    def _from_ahead(self, position: _Position) -> Any:
        """A tensor that was read ahead, if it is what the loop that was seen takes next."""
        if self._is_taking:  # a signal handler in the middle of a loop is no part of it
            return None
        self._is_taking = True
        try:
            return self._next_of_loop(position)
        finally:
            self._is_taking = False

    def _next_of_loop(self, position: _Position) -> Any:
        if self._ahead is not None:
            tensor = self._taken(self._ahead, position)
            if tensor is not None:
                self._misses = 0
                return tensor
            self._misses += 1
            if self._misses > _MISSES_MAX:
                self.stop()
        rest = self._loop.comes(position) if self._reads_ahead else None
        if rest is None:
            return None
        if self._has_encoded:
            shards = self._located.catalog.shards
            rest = [(index, row) for index, row in rest if shards[index].parts_of(row) is None]
        self.stop()
        limit = self._options.memory_limit_bytes
        try:
            self._ahead = ReadAhead(
                self._located,
                rest,
                self._framework,
                verify=self._verify,
                options=self._options,
                window_bytes=_AHEAD_BYTES if limit is None else min(limit, _AHEAD_BYTES),
                tally=self._tally,
            )
        except MemoryLimitError:  # a limit below a chunk: tensors are read one by one then
            return None
        return self._taken(self._ahead, position)

    def _taken(self, ahead: ReadAhead, position: _Position) -> Any:
        try:
            return ahead.take(position)
        except DATA_ERRORS as error:
            # All reading ahead stops with it, and would do so again: each tensor is read on its own
            # from now on, and the one that it concerns is told.
            self._reads_ahead = False
            self._failure = error.with_traceback(None)
            self.stop()
        self._raise_failure(position)
        return None

    def _raise_failure(self, position: _Position) -> None:
        failure, (index, row) = self._failure, position
        if failure is not None and concerns(failure, self._located.catalog.shards[index], row):
            self._failure = None
            raise failure

    def _from_chunks(self, shard: Shard, row: int) -> Any:
        """A small tensor, out of verified chunks that are kept for its neighbours."""
        begin, end = int(shard.begins[row]), int(shard.ends[row])
        if shard.table is None or end - begin > shard.table.chunk_bytes // 4:
            return None
        with self._tally.job():
            kept = self._reads.kept(shard, [(begin, end)])
        if kept is None:
            return None
        dtype = shard.dtypes[row]
        shape = shape_in_memory(dtype, shard.shapes[row])
        self._tally.took(end - begin)
        return self._framework.adopt(kept[0].copy(), dtype, shape)

    # ---- parts of tensors

    def part(self, position: _Position, index: Any) -> Any:
        """Return a part of a tensor, of its own memory; reads what that needs.

        Raises
        ------
        SelectionError
            See `fastio.reading.slicing`.
        ChecksumError, MemoryError, MemoryLimitError, ReadError, TypeError, UsageError
            As `tensor` does.
        """
        shard, mapped = self._shard(position[0])
        row = position[1]
        dtype, shape = _checked_dtype(self._located.catalog, shard, row, self._framework)
        if shard.parts_of(row) is not None:
            limit = self._options.memory_limit_bytes
            decoded = EncodedBytes(self._reads, shard, row, limit, self._tally)
            return self._part(dtype, shape, index, decoded, lambda: self.tensor(position))
        if mapped is not None and self._options.memory_limit_bytes is None:
            try:
                part = self._framework.part_mapped(mapped, row, dtype, shape, index)
            except Exception:
                with fetch.errors_of(self._located):
                    raise
            if part is not None:
                return part
        place = _place(self._reads, shard, mapped, int(shard.begins[row]))
        return self._part(dtype, shape, index, place, lambda: self.tensor(position))

    def part_of_cut(self, cut: Cut, index: Any) -> Any:
        """Return a part of a tensor whose rows lie in several shards; reads what that needs.

        Raises
        ------
        As `part` does.
        """
        self._require_open()
        check_dtype(cut.info, self._framework)
        place = parts.FileBytes(self._reads, cut.extents)
        return self._part(cut.dtype, cut.shape, index, place, lambda: self.cut(cut))

    def cut(self, cut: Cut) -> Any:
        """Return a tensor whose rows lie in several shards, whole.

        Raises
        ------
        As `tensor` does.
        """
        check_dtype(cut.info, self._framework)
        self._require_open()
        with self._tally.job():
            tensor, statistics = split.read(
                self._located,
                cut,
                self._framework,
                verify=self._verify,
                options=self._options,
            )
        self._tally.count(statistics)
        return tensor

    def _require_open(self) -> None:
        if self._closed:
            raise UsageError(f"the reader of {self._located.source} is closed")

    def _part(
        self,
        dtype: str,
        of_file: tuple[int, ...],
        index: Any,
        place: parts.Place,
        whole: Callable[[], Any],
    ) -> Any:
        """A part of a tensor, whose shape a header gives, from where its bytes lie."""
        shape = shape_in_memory(dtype, of_file)
        item_bytes = DTYPES[dtype].align_bytes
        selection = slicing.select(index, shape, item_bytes)
        if selection.is_empty:
            return self._framework.adopt(np.empty(0, np.uint8), dtype, selection.shape)
        if selection.is_everything:
            tensor = whole()
            return tensor if selection.shape == shape else tensor.reshape(selection.shape)
        with self._tally.job():
            memory = parts.gather(selection, place, self._options.memory_limit_bytes)
        if not isinstance(place, parts.MappedBytes):  # a mapped file counts what is taken from it
            self._tally.took(memory.nbytes)
        return self._framework.adopt(memory, dtype, selection.shape)

    # ---- its life

    def stop(self) -> None:
        """Stop reading ahead."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.close()

    def stop_for_good(self) -> None:
        """Stop reading ahead for good, and free the kept tensors. Tensors and parts can still be
        read.
        """
        with self._lock:
            self.stop()
            self._reads.chunks.clear()
            self._reads_ahead = False

    def close(self) -> None:
        """Close: files stay open for those who still read them, and no longer."""
        self._closed = True
        self.stop_for_good()
        with self._lock:
            self._tally.close()
            self._mapped = []
            self._located = self._located.closed()
            self._loop = Loop(self._located.catalog)

    def after_fork(self) -> None:
        """In a child: the threads that read ahead, or hold a lock, are not there."""
        self._lock = threading.RLock()
        self._is_taking = False
        self._tally.after_fork()
        self._ahead = None


def _place(
    reads: parts.PartReader, shard: Shard, mapped: _native.MappedFile | None, begin: int
) -> parts.Place:
    """The place of a tensor that begins at a byte of its file."""
    if mapped is not None:
        return parts.MappedBytes(mapped, begin, shard)
    return parts.FileBytes(reads, lambda at, end: ((shard, begin + at, begin + end),))


def _checked_dtype(
    catalog: Catalog, shard: Shard, row: int, framework: Framework
) -> tuple[str, tuple[int, ...]]:
    """Dtype and shape of a tensor that the framework can hold."""
    dtype, shape = shard.dtypes[row], shard.shapes[row]
    if dtype not in framework.DTYPES or dtype == "F4":
        check_dtype(catalog.info(shard.names[row]), framework)
    return dtype, shape


_alive: weakref.WeakSet[Access] = weakref.WeakSet()


def _after_fork() -> None:
    for access in list(_alive):
        access.after_fork()


os.register_at_fork(after_in_child=_after_fork)
