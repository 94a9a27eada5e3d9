"""The errors of fastio. It also raises `FileNotFoundError`, `TypeError` and `ValueError`.

    FastioError
    ├── FormatError (ValueError)           an invalid file
    ├── ChecksumError                      bytes that differ from the saved ones
    ├── ReadError, WriteError (OSError)    a failed system call
    ├── DeviceError (RuntimeError)         a call that an accelerator's driver refused
    ├── ReplicaError                       a store with too few roots, each with its reason
    ├── ConflictError                      a generation that another writer committed or collected
    ├── StaleError                         a generation older than `min_generation`
    ├── TensorNotFoundError (KeyError)     a name that no file has
    ├── UsageError (ValueError)            a closed reader, an unknown framework or device
    ├── SelectionError (IndexError)        an index out of range
    ├── DtypeError (TypeError)             a dtype that a framework lacks
    └── MemoryLimitError (MemoryError)     more bytes than the caller allows

Each keeps its arguments as attributes, names all of them in its message, and can be pickled.

A ReadError or WriteError also has the class that Python gives to its error number: a `ReadError`
of EACCES is a PermissionError, a `WriteError` of ENOENT a FileNotFoundError.
"""

from __future__ import annotations

import errno as errno_names
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from fastio.display.values import shown
from fastio.errors.base import FastioError as FastioError  # exported from here
from fastio.errors.base import listed


class FormatError(FastioError, ValueError):
    """A header, an index or a table that is not what it says.

    Attributes
    ----------
    path : str
        The file.
    problem : str
        What was found.
    offset : int or None
        Where in the file it was found, in bytes from its start, where that is known.
    expected : str or None
        What should be there.
    """

    _arguments = ("path", "problem", "offset", "expected")

    def __init__(
        self,
        path: str | bytes | os.PathLike[str],
        problem: str,
        *,
        offset: int | None = None,
        expected: str | None = None,
    ) -> None:
        super().__init__(path, problem, offset, expected)
        self.path = os.fsdecode(path)
        self.problem = problem
        self.offset = offset
        self.expected = expected

    def _message(self) -> str:
        at = "" if self.offset is None else f" (at byte {self.offset})"
        expected = "" if self.expected is None else f"; expected {self.expected}"
        return f"{self.path}: {self.problem}{at}{expected}"


class ChecksumError(FastioError):
    """Bytes that are not those that were saved.

    Attributes
    ----------
    path : str
        The file.
    chunk : int
        Number of the damaged chunk, from 0.
    offset, nbytes : int
        Where the chunk lies in the file, in bytes.
    expected, found : str
        XXH3-64 in the file's table and of the bytes that were read, 16 hex digits each.
    tensors : tuple of str
        The tensors that have bytes in this chunk.
    """

    _arguments = ("path", "chunk", "offset", "nbytes", "expected", "found", "tensors")

    def __init__(
        self,
        path: str | bytes | os.PathLike[str],
        *,
        chunk: int,
        offset: int,
        nbytes: int,
        expected: str,
        found: str,
        tensors: Sequence[str] = (),
    ) -> None:
        super().__init__(path, chunk)
        self.path = os.fsdecode(path)
        self.chunk = chunk
        self.offset = offset
        self.nbytes = nbytes
        self.expected = expected
        self.found = found
        self.tensors = tuple(tensors)

    def _message(self) -> str:
        message = (
            f"{self.path}: chunk {self.chunk} ({self.nbytes} bytes at byte {self.offset}) "
            f"is damaged: its checksum is {self.found}; expected {self.expected}"
        )
        return f"{message}; it has bytes of {listed(self.tensors)}" if self.tensors else message


@functools.cache
def _with_builtin(kind: type[_IoError], errno: int) -> type[_IoError]:
    """The class of a failed call: `kind`, and the class that Python has for the number as well.

    TimeoutError is left out: it would read as "the future has no result yet" where a `SaveHandle`
    is waited for.
    """
    builtin = type(OSError(errno, ""))
    if builtin in (OSError, TimeoutError):
        return kind
    body = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "_declared": kind}
    return type(kind.__name__, (kind, builtin), {**body, "__doc__": kind.__doc__})


class _IoError(FastioError, OSError):
    """The common part of `ReadError` and `WriteError`."""

    _arguments = ("errno", "operation", "path", "offset", "detail")
    _declared: ClassVar[type[FastioError] | None] = None

    def __new__(cls, errno: int, operation: str, path: Any, *_: Any, **__: Any) -> _IoError:
        kind = _with_builtin(cls, errno)  # type: ignore[arg-type]  # a class can be hashed
        return super().__new__(kind, errno, os.strerror(errno), os.fsdecode(path))

    def __init__(
        self,
        errno: int,
        operation: str,
        path: str | bytes | os.PathLike[str],
        offset: int | None = None,
        detail: str | None = None,
    ) -> None:
        self.path = os.fsdecode(path)
        self.operation = operation
        self.offset = offset
        self.detail = detail

    def _kind(self) -> type[FastioError]:
        return self._declared or type(self)

    def _message(self) -> str:
        at = "" if self.offset is None else f" at byte {self.offset}"
        code = self.errno or 0
        name = errno_names.errorcode.get(code, str(code))
        detail = "" if self.detail is None else f": {self.detail}"
        return f"{self.path}: {self.operation}{at} failed: {name} ({self.strerror}){detail}"


class ReadError(_IoError):
    """A system call on a file that is read failed.

    Attributes
    ----------
    errno : int
    strerror, filename : str
        As every OSError has them.
    operation : str
        The system call.
    path : str
        The file.
    offset : int or None
        Where in the file, in bytes, where that is known.
    detail : str or None
        What the error number alone does not say.
    """


class WriteError(_IoError):
    """A system call on a file that is written failed. Attributes as those of `ReadError`."""


class DeviceError(FastioError, RuntimeError):
    """An accelerator that is not there, or a call that its driver refused.

    Attributes
    ----------
    device : str
        As torch calls it, "cuda:0".
    operation : str
        The call.
    code : int
        What the driver said; 0 where it was not asked.
    detail : str
        The name of the code and its text; or why the driver was not asked.
    """

    _arguments = ("device", "operation", "code", "detail")

    def __init__(self, device: str, operation: str, code: int, detail: str) -> None:
        super().__init__(device, operation, code, detail)
        self.device = device
        self.operation = operation
        self.code = code
        self.detail = detail

    def _message(self) -> str:
        if not self.code:
            return f"{self.device}: {self.detail}"
        return f"{self.device}: {self.operation} failed: {self.detail} ({self.code})"


class ReplicaError(FastioError):
    """Too few roots of a store could give, or take, what was asked for.

    Attributes
    ----------
    path : str
        The store, or the shard.
    problem : str
        What could not be had.
    reasons : mapping of str to str
        Each root, or each replica of a shard, that was tried, and why it did not do.
    tensors : tuple of str
        The tensors that have bytes there, where that is known.
    shard : str or None
        One of the files that should have them.
    offset : int or None
        Where in it, in bytes, where that is known.
    """

    _arguments = ("path", "problem", "reasons", "tensors", "shard", "offset")

    def __init__(
        self,
        path: str | bytes | os.PathLike[str],
        problem: str,
        reasons: Mapping[str, str],
        tensors: Sequence[str] = (),
        shard: str | None = None,
        offset: int | None = None,
    ) -> None:
        super().__init__(path, problem)
        self.path = os.fsdecode(path)
        self.problem = problem
        self.reasons = dict(reasons)
        self.tensors = tuple(tensors)
        self.shard = shard
        self.offset = offset

    def _message(self) -> str:
        message = f"{self.path}: {self.problem}"
        if self.tensors:
            message += f"; it has bytes of {listed(self.tensors)}"
        return "; ".join((message, *(f"{root}: {why}" for root, why in self.reasons.items())))


class ConflictError(FastioError):
    """A store that somebody else is writing to, or has written to meanwhile; or a generation that
    was collected.

    Attributes
    ----------
    path : str
        The store, or the root.
    problem : str
    """

    _arguments = ("path", "problem")

    def __init__(self, path: str | bytes | os.PathLike[str], problem: str) -> None:
        super().__init__(path, problem)
        self.path = os.fsdecode(path)
        self.problem = problem

    def _message(self) -> str:
        return f"{self.path}: {self.problem}"


class StaleError(FastioError):
    """A store whose newest generation is older than the one that was asked for.

    Attributes
    ----------
    path : str
        The store.
    found, expected : int
        The newest generation that its roots have, and the oldest that will do.
    """

    _arguments = ("path", "found", "expected")

    def __init__(self, path: str | bytes | os.PathLike[str], found: int, expected: int) -> None:
        super().__init__(path, found, expected)
        self.path = os.fsdecode(path)
        self.found = found
        self.expected = expected

    def _message(self) -> str:
        return (
            f"{self.path}: its newest generation is {self.found}; expected {self.expected} or "
            "newer. These roots are old ones, a backup perhaps, or newer ones are missing"
        )


class TensorNotFoundError(FastioError, KeyError):
    """A name that no file has.

    Attributes
    ----------
    name : str
        What was asked for.
    source : str
        Where it was looked for.
    matches : tuple of str
        Names that are there and look like it, the closest first.
    detail : str or None
        Why it could be expected there.
    """

    _arguments = ("name", "source", "matches", "detail")

    def __init__(
        self, name: str, source: str, matches: Sequence[str] = (), detail: str | None = None
    ) -> None:
        super().__init__(name)
        self.name = name
        self.source = source
        self.matches = tuple(matches)
        self.detail = detail

    def _message(self) -> str:
        message = f"{self.source}: there is no tensor {shown(self.name)}"
        if self.detail is not None:
            return f"{message}: {self.detail}"
        if not self.matches:
            return message
        return f"{message}; did you mean {' or '.join(shown(name) for name in self.matches)}?"


class UsageError(FastioError, ValueError):
    """A reader that is closed; a framework, device or backend that there is not."""


class SelectionError(FastioError, IndexError):
    """An index that is out of range, or of a kind that there is not."""


class DtypeError(FastioError, TypeError):
    """A tensor of a dtype that the framework cannot hold: names file, tensor and dtype."""


class MemoryLimitError(FastioError, MemoryError):
    """More bytes than the caller allows; nothing was read.

    Attributes
    ----------
    asked_bytes : int
        What the call needs.
    limit_bytes : int
        What is allowed.
    held_bytes : int
        What of that is taken already.
    """

    _arguments = ("asked_bytes", "limit_bytes", "held_bytes")

    def __init__(self, asked_bytes: int, limit_bytes: int, held_bytes: int = 0) -> None:
        super().__init__(asked_bytes, limit_bytes, held_bytes)
        self.asked_bytes = asked_bytes
        self.limit_bytes = limit_bytes
        self.held_bytes = held_bytes

    def _message(self) -> str:
        held = f", of which {self.held_bytes} are held already" if self.held_bytes else ""
        return f"{self.asked_bytes} bytes are needed; the limit is {self.limit_bytes}{held}"
