"""What fastio raises, beyond Python's own `FileNotFoundError`, `TypeError` and `ValueError`.

    FastioError
    ├── FormatError (ValueError)           a file that is not what it says
    ├── ChecksumError                      bytes that are not those that were saved
    ├── ReadError, WriteError (OSError)    a system call that failed
    ├── TensorNotFoundError (KeyError)     a name that no file has
    ├── UsageError (ValueError)            a closed reader, a framework or device that there is not
    ├── SelectionError (IndexError)        an index that a tensor has not
    ├── DtypeError (TypeError)             a dtype that a framework cannot hold
    └── MemoryLimitError (MemoryError)     more bytes than the caller allows

Each keeps what it was made of as attributes, says all of it in its message, and can be pickled.
"""

from __future__ import annotations

import errno as errno_names
import os
import reprlib
from collections.abc import Sequence
from typing import Any, ClassVar

_SHOWN_MAX = 200  # characters of a name in a message; a hostile file may have names of megabytes
_TENSORS_SHOWN_MAX = 3
# Of the rest that JSON has: some elements of a list or an object, two levels deep.
_brief = reprlib.Repr()
_brief.maxlevel, _brief.maxlist, _brief.maxdict, _brief.maxtuple = 2, 8, 4, 8


def shown(text: object) -> str:
    """Return `text` as a message shows it: in quotes, cut to a length that a line can carry.

    Raises
    ------
    Nothing.
    """
    if isinstance(text, str):
        cut = len(text) > _SHOWN_MAX
        return f"{text[:_SHOWN_MAX]!r}… ({len(text)} characters)" if cut else repr(text)
    return _brief.repr(text)


def _restore(kind: type[FastioError], arguments: dict[str, Any]) -> FastioError:
    return kind(**arguments)


class FastioError(Exception):
    """Base of all errors that fastio defines.

    Attributes
    ----------
    complete : tuple of str or None
        Where `fastio.load_into` failed midway: the tensors that have all their bytes.
    """

    # What the constructor takes; each is an attribute too.
    _arguments: ClassVar[tuple[str, ...]] = ()
    complete: tuple[str, ...] | None = None

    def __str__(self) -> str:
        if self.complete is None:
            return self._message()
        return f"{self._message()}; {_complete(self.complete)}"

    def _message(self) -> str:
        return " ".join(str(arg) for arg in self.args)

    def __reduce__(self) -> str | tuple[Any, ...]:
        if not self._arguments:
            return super().__reduce__()
        arguments = {name: getattr(self, name) for name in self._arguments}
        return _restore, (type(self), arguments), vars(self)


def _complete(names: tuple[str, ...]) -> str:
    if not names:
        return "no tensor is complete"
    listed = ", ".join(shown(name) for name in names[:_TENSORS_SHOWN_MAX])
    more = len(names) - _TENSORS_SHOWN_MAX
    return f"complete: {listed}" + (f" and {more} more" if more > 0 else "")


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
        if not self.tensors:
            return message
        listed = ", ".join(shown(name) for name in self.tensors[:_TENSORS_SHOWN_MAX])
        more = len(self.tensors) - _TENSORS_SHOWN_MAX
        return f"{message}; it has bytes of {listed}" + (f" and {more} more" if more > 0 else "")


class _IoError(FastioError, OSError):
    """What `ReadError` and `WriteError` share."""

    _arguments = ("errno", "operation", "path", "offset", "detail")

    def __init__(
        self,
        errno: int,
        operation: str,
        path: str | bytes | os.PathLike[str],
        offset: int | None = None,
        detail: str | None = None,
    ) -> None:
        self.path = os.fsdecode(path)
        super().__init__(errno, os.strerror(errno), self.path)
        self.operation = operation
        self.offset = offset
        self.detail = detail

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
    """

    _arguments = ("name", "source", "matches")

    def __init__(self, name: str, source: str, matches: Sequence[str] = ()) -> None:
        super().__init__(name)
        self.name = name
        self.source = source
        self.matches = tuple(matches)

    def _message(self) -> str:
        message = f"{self.source}: there is no tensor {shown(self.name)}"
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
