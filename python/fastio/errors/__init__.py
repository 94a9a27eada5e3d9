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
    """An invalid header, index or table.

    Attributes
    ----------
    path : str
        The file.
    problem : str
        The error that was found.
    offset : int or None
        Its place in the file, in bytes from the start, if known.
    expected : str or None
        The valid value.
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
    """Bytes that differ from the saved ones.

    Attributes
    ----------
    path : str
        The file.
    chunk : int
        Number of the damaged chunk, from 0.
    offset, nbytes : int
        The place of the chunk in the file, in bytes.
    expected, found : str
        Digests in hexadecimal: the one in the file's table, and that of the bytes that were read.
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
    """A failed system call of a read.

    Attributes
    ----------
    errno : int
    strerror, filename : str
        As in every OSError.
    operation : str
        The system call.
    path : str
        The file.
    offset : int or None
        The place in the file, in bytes, if known.
    detail : str or None
        More than the error number says.
    """


class WriteError(_IoError):
    """A failed system call of a write. It has the attributes of `ReadError`."""


class DeviceError(FastioError, RuntimeError):
    """A missing accelerator, or a call that its driver refused.

    Attributes
    ----------
    device : str
        Its name in torch, "cuda:0".
    operation : str
        The call.
    code : int
        The driver's error; 0 if the driver was not asked.
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
    """A store with too few good replicas for a load, or too few roots for a save.

    Attributes
    ----------
    path : str
        The store, or the shard.
    problem : str
        The bytes, or the roots, that are missing.
    reasons : mapping of str to str
        The reason of each root, or of each replica of a shard, that was tried.
    tensors : tuple of str
        The tensors that have bytes there, if known.
    shard : str or None
        One of the files that should have them.
    offset : int or None
        The place in it, in bytes, if known.
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
    """Another process writes to the store, or wrote to it meanwhile; or it collected a generation.

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
    """A store whose newest generation is older than `min_generation`.

    Attributes
    ----------
    path : str
        The store.
    found, expected : int
        The newest generation of its roots, and `min_generation`.
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
        The name.
    source : str
        The file, folder or store.
    matches : tuple of str
        Similar names in the source, the closest first.
    detail : str or None
        The reason to expect it there, such as an index.
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
    """A closed reader; an unknown framework, device or backend."""


class SelectionError(FastioError, IndexError):
    """An index that is out of range, or of an unknown kind."""


class DtypeError(FastioError, TypeError):
    """A dtype that the framework lacks: names file, tensor and dtype."""


class MemoryLimitError(FastioError, MemoryError):
    """More bytes than the caller allows; nothing was read.

    Attributes
    ----------
    asked_bytes : int
        The need of the call.
    limit_bytes : int
        The limit.
    held_bytes : int
        Bytes within the limit that are in use already.
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
