"""One file whose tensors come one after another, in any order: it is written in bounded memory."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Iterator

import numpy as np
import numpy.typing as npt

import fastio._native as _native
from fastio.errors import WriteError
from fastio.host.replacement import Replacement
from fastio.options import Options
from fastio.saving.pace import Progress, WriteMode
from fastio.saving.writing import Layout, Writer

Bytes = npt.NDArray[np.uint8]
Piece = tuple[str, int, Bytes]
"""The name of a tensor, an offset in its bytes, and bytes from there on."""
Pieces = Callable[[Collection[str]], Iterator[Piece]]
"""Given names, yields all bytes of these tensors."""

_WRITTEN_BYTES = 2**24  # in one call


class StreamedWriter(Writer):
    """A file on its way, whose bytes are asked for when they are written.

    Parameters
    ----------
    replacement : Replacement
        The file, open and empty; closed with this object.
    layout : Layout
    options : Options
    pieces : callable
    """

    def __init__(
        self, replacement: Replacement, layout: Layout, options: Options, pieces: Pieces
    ) -> None:
        super().__init__(replacement, layout)
        self._pieces = pieces
        self._sums = ChunkSums(layout) if layout.chunk_bytes else None
        self._counted: _native.SaveStatistics = {
            "engine": "pread",
            "engine_reason": "tensors are written one after another as they come",
            "lanes": 1,
            "nbytes": 0,
            "bytes_direct": 0,
            "bytes_buffered": 0,
            "bytes_gathered": 0,
            "bytes_rewritten": 0,
            "chunks": 0,
            "fallbacks": [],
        }

    def begin(self) -> None:
        """Make ready what is written to, as `reserve` found that it must be.

        Raises
        ------
        WriteError
        """
        self.replacement.begin()

    def write_data(self, *, durable: bool, progress: Progress) -> WriteMode:
        """Write all tensors as they come.

        Raises
        ------
        WriteError
            A disk is full, or the filesystem takes bytes in their order alone.
        Exception
            What the pieces raise.
        """
        if self.replacement.abilities.in_order:
            detail = "it takes bytes in their order alone, and tensors come in another one"
            raise WriteError(errno.ESPIPE, "write", self.replacement.path, detail=detail)
        origins, start = self.layout.origins, self.layout.start
        places = dict(zip(origins.names, origins.bounds(start)[:-1].tolist(), strict=True))
        total = origins.data_bytes
        for name, offset, data in self._pieces(origins.names):
            self._write(places[name] + offset, data)
            self._counted["nbytes"] += data.nbytes
            if progress is not None:
                progress(self._counted["nbytes"], total)
        self._counted["bytes_buffered"] = self._counted["nbytes"]
        return WriteMode("buffered", "through the page cache, as tensors come one after another")

    def _write(self, offset: int, data: Bytes) -> None:
        for at in range(0, data.nbytes, _WRITTEN_BYTES):
            part = data[at : at + _WRITTEN_BYTES]
            self.replacement.file.write(offset + at, part.tobytes())
        if self._sums is not None:
            self._sums.add(offset - self.layout.start, data, self.replacement.readable_path)

    def header(self) -> bytes:
        """Return the file up to its data, once that is written."""
        header = self.layout.header
        if isinstance(header, bytes):
            return header
        assert self._sums is not None
        self._counted["chunks"] = self._sums.count
        return header.encode(self._sums.digests())


class ChunkSums:
    """The checksums of data that come in pieces.

    A chunk that came in one piece is summed up from there. Any other one is read back when it is
    complete: it was written a moment ago, so the page cache has it.

    Parameters
    ----------
    layout : Layout
    """

    def __init__(self, layout: Layout) -> None:
        self._start, self._nbytes = layout.start, layout.origins.data_bytes
        self._chunk_bytes, self._algorithm = layout.chunk_bytes, layout.algorithm
        self.count = -(-self._nbytes // self._chunk_bytes)
        self._missing = np.full(self.count, self._chunk_bytes, np.int64)
        if self.count:
            self._missing[-1] = self._nbytes - (self.count - 1) * self._chunk_bytes
        self._digests = np.zeros((self.count, self._algorithm.digest_bytes), np.uint8)

    def add(self, offset: int, data: Bytes, path: str) -> None:
        """Count a piece of the data, which is written to a file already.

        Parameters
        ----------
        offset : int
            From the start of the data, in bytes.
        data : (n,) uint8
        path : str
            Of the file.
        """
        if not data.nbytes:
            return
        end = offset + data.nbytes
        size = self._chunk_bytes
        first = -(-offset // size)
        last = self.count if end == self._nbytes else end // size
        if first < last:
            whole = data[first * size - offset : min(last * size, end) - offset]
            self._put(first, last, self._algorithm.digests(whole.data, size))
            self._missing[first:last] = 0
        for chunk in {offset // size, (end - 1) // size} - set(range(first, last)):
            begins, ends = max(offset, chunk * size), min(end, (chunk + 1) * size)
            self._missing[chunk] -= ends - begins
            if not self._missing[chunk]:
                self._read_back(chunk, path)

    def _read_back(self, chunk: int, path: str) -> None:
        begin = chunk * self._chunk_bytes
        nbytes = min(self._chunk_bytes, self._nbytes - begin)
        with open(path, "rb", buffering=0) as file:
            data = os.pread(file.fileno(), nbytes, self._start + begin)
        self._put(chunk, chunk + 1, self._algorithm.digests(data, self._chunk_bytes))

    def _put(self, first: int, last: int, digests: bytes) -> None:
        found = np.frombuffer(digests, np.uint8)
        self._digests[first:last] = found.reshape(last - first, -1)

    def digests(self) -> bytes:
        """Return the digest of each chunk, one behind the other."""
        assert not self._missing.any()
        return self._digests.tobytes()
