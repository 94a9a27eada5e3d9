"""Stored bytes of an encoded tensor become its bytes in memory, part by part on several threads."""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from fastio.catalog import Shard
from fastio.catalog.dtypes import DTYPES, shape_in_memory
from fastio.catalog.encodings import Decoding, StoredPart
from fastio.display.values import shown
from fastio.errors import FormatError
from fastio.host import threads
from fastio.host.cores import usable_cores
from fastio.host.shortage import memory_named

# Fewer stored bytes than these are decoded sooner than a thread starts.
_WORTH_A_THREAD_BYTES = 2**16

Bytes = npt.NDArray[np.uint8]


class Decoded:
    """An encoded tensor whose parts are decoded one by one, in any order and in several threads.

    Parameters
    ----------
    shard : Shard
    row : int
        Of the tensor in the shard.
    """

    def __init__(self, shard: Shard, row: int) -> None:
        self._shard = shard
        self._row = row
        with self._memory_named():
            # Zeros, so that no decoder can hand out what was in memory before.
            self._memory: Bytes = np.zeros(shard.nbytes_of(row), np.uint8)
        self._refused: BaseException | None = None

    def decode(self, part: StoredPart, stored: Bytes) -> None:
        """Decode a part to its place. A failure is raised when the tensor is asked for."""
        try:
            self._put(part, stored)
        except MemoryError as error:
            self._refused = error.with_traceback(None)
        except Exception as error:
            self._refused = self._refusal(part, error)
        except BaseException as error:
            self._refused = error
            raise

    def _put(self, part: StoredPart, stored: Bytes) -> None:
        box = Box(self._shard, self._row, part)
        direct = box.contiguous(self._memory)
        out = np.zeros(box.nbytes, np.uint8) if direct is None else direct
        count = part.encoding.decode(stored.data.toreadonly(), out.data)
        if count != out.nbytes:
            raise ValueError(f"it came to {count} bytes")
        if direct is None:
            box.copy_to(self._memory, out)

    def _refusal(self, part: StoredPart, error: Exception) -> FormatError:
        name, encoding = shown(self._shard.names[self._row]), part.encoding.name
        nbytes = Box(self._shard, self._row, part).nbytes
        expected = f"{nbytes} bytes, stored as {encoding} in {part.end - part.begin}"
        problem = f"tensor {name} cannot be decoded: {type(error).__name__}: {error}"
        if isinstance(error, ImportError):
            problem = f"tensor {name} is stored as {encoding}, which needs a module: {error}"
            expected = "that module to be installed"
        refusal = FormatError(self._shard.path, problem, offset=part.begin, expected=expected)
        refusal.__cause__ = error.with_traceback(None)  # its frames hold the memory
        return refusal

    def memory(self) -> Bytes:
        """Return the tensor's bytes, when all parts are decoded.

        Raises
        ------
        FormatError
            A part could not be decoded, or not to as many bytes as it should: path, tensor, offset.
        MemoryError
            There was none for a part.
        """
        if self._refused is not None:
            with self._memory_named():
                raise self._refused
        return self._memory

    def _memory_named(self) -> contextlib.AbstractContextManager[None]:
        name, nbytes = self._shard.names[self._row], self._shard.nbytes_of(self._row)
        return memory_named(self._shard.path, lambda: f"tensor {shown(name)} of {nbytes} bytes")


class Box:
    """The place of a part in its tensor.

    Parameters
    ----------
    shard : Shard
    row : int
        Of the tensor in the shard.
    part : StoredPart

    Attributes
    ----------
    start, shape : tuple of int
        The index of its first value, and how many there are along each axis; it may reach beyond
        the tensor.
    nbytes : int
        Of all values.
    """

    def __init__(self, shard: Shard, row: int, part: StoredPart) -> None:
        dtype = shard.dtypes[row]
        self._item_bytes = DTYPES[dtype].align_bytes
        self._whole = shape_in_memory(dtype, shard.shapes[row])
        self._is_all = part.start is None or part.shape is None
        self.start = part.start or (0,) * len(self._whole)
        self.shape = self._whole if part.shape is None else part.shape
        self.nbytes = shard.nbytes_of(row)
        if not self._is_all:
            self.nbytes = math.prod(self.shape) * self._item_bytes

    @property
    def rows(self) -> tuple[int, int]:
        """The first index along axis 0, and the one behind the last."""
        if not self._whole:
            return 0, 1
        return self.start[0], min(self.start[0] + self.shape[0], self._whole[0])

    @property
    def is_contiguous(self) -> bool:
        """Whether it is one run of bytes of the tensor: rows of axis 0, or all of it."""
        if self._is_all or not self._whole:
            return True
        inner = self.shape[1:] == self._whole[1:] and not any(self.start[1:])
        return inner and self.start[0] + self.shape[0] <= self._whole[0]

    def contiguous(self, memory: Bytes) -> Bytes | None:
        """Return its bytes in those of the tensor, where they are one run; else None."""
        if not self.is_contiguous:
            return None
        if self._is_all or not self._whole:
            return memory
        row_bytes = math.prod(self._whole[1:]) * self._item_bytes
        first, last = self.rows
        return memory[first * row_bytes : last * row_bytes]

    def copy_to(self, memory: Bytes, part: Bytes) -> None:
        """Copy the part's bytes to their places in those of the tensor."""
        there = memory.reshape(*self._whole, self._item_bytes)
        here = part.reshape(*self.shape, self._item_bytes)
        ends = [
            min(start + length, whole)
            for start, length, whole in zip(self.start, self.shape, self._whole, strict=True)
        ]
        kept = tuple(
            slice(0, max(end - start, 0)) for start, end in zip(self.start, ends, strict=True)
        )
        taken = tuple(slice(start, end) for start, end in zip(self.start, ends, strict=True))
        there[taken] = here[kept]


class Account:
    """The tensors and bytes that encodings have decoded, by the name of each encoding."""

    def __init__(self) -> None:
        # By encoding: the tensors, each once, stored bytes, and bytes that they came to.
        self._tensors: dict[str, dict[str, None]] = {}
        self._stored_bytes: dict[str, int] = {}
        self._nbytes: dict[str, int] = {}

    def note(self, shard: Shard, row: int, parts: Iterable[StoredPart]) -> None:
        """Count parts of a tensor that were decoded."""
        for part in parts:
            name = part.encoding.name
            self._tensors.setdefault(name, {})[shard.names[row]] = None
            stored, nbytes = part.end - part.begin, Box(shard, row, part).nbytes
            self._stored_bytes[name] = self._stored_bytes.get(name, 0) + stored
            self._nbytes[name] = self._nbytes.get(name, 0) + nbytes

    def decodings(self) -> list[Decoding]:
        """Return the sums."""
        return [
            Decoding(name, tuple(tensors), self._stored_bytes[name], self._nbytes[name])
            for name, tensors in self._tensors.items()
        ]


def on_threads(work: Iterable[Callable[[], None]], nbytes: int) -> None:
    """Do work on several threads, of which the caller's is one.

    Parameters
    ----------
    work : iterable of callable
        Each keeps its own errors.
    nbytes : int
        The stored bytes of all of it: for a few of them no thread is started.

    Raises
    ------
    KeyboardInterrupt
        The work that was not begun is left out then.
    """
    todo = deque(work)

    def run() -> None:
        while todo:
            try:
                each = todo.popleft()
            except IndexError:  # another thread was faster
                return
            each()

    def help_out() -> None:
        with contextlib.suppress(BaseException):  # which is kept, too
            run()

    started = []
    try:
        helpers = min(usable_cores(), len(todo), nbytes // _WORTH_A_THREAD_BYTES + 1) - 1
        with contextlib.suppress(threads.NoThreadError):  # those that there are do it
            for number in range(helpers):
                started.append(threads.start(help_out, f"fastio-decode-{number}", daemon=True))
        run()
    finally:
        todo.clear()
        for thread in started:
            thread.join()
