"""safe_open, as safetensors has it: the reader under the names that existing code uses."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

from fastio.catalog import TensorInfo
from fastio.display.values import cut, one_line
from fastio.errors import FastioError, UsageError
from fastio.frameworks import FrameworkName
from fastio.locate import locate, locate_again
from fastio.options import Options
from fastio.reading.load import Load, To
from fastio.reading.reader import Reader
from fastio.reading.slicing import UnknownIndexError
from fastio.reading.verification import Verify

SafetensorError = FastioError
"""For code that catches it."""

_BACKENDS = ("mmap", "pread")


@dataclass(frozen=True, slots=True)
class TensorMeta:
    """The entry of one tensor in a header, as ``safetensors.TensorMeta``.

    Attributes
    ----------
    dtype : str
        As headers write it.
    shape : list of int
    data_offsets : tuple of (int, int)
        Where its bytes begin and end, in bytes from the start of the data.

    Examples
    --------
    >>> with fastio.safe_open("model.safetensors", "np") as file:
    ...     file.get_tensor_meta("weight").data_offsets
    (12, 36)
    """

    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]

    @one_line
    def __repr__(self) -> str:
        values = f"dtype={self.dtype!r}, shape={self.shape}, data_offsets={self.data_offsets}"
        return f"fastio.TensorMeta({values})"


class safe_open:
    """A safetensors file whose tensors are read when they are asked for.

    It has the arguments and methods of ``safetensors.safe_open``, and verifies files that carry
    checksums. Several threads may use one at once. It works with or without ``with``.

    Parameters
    ----------
    filename : str or os.PathLike
        One file.
    framework : str
        "pt", "torch" or "pytorch"; "np" or "numpy"; "flax" or "jax"; "tf" or "tensorflow"; "mlx";
        "paddle".
    device : str, int or None
        The tensors' device: with torch any argument of ``Tensor.to``; with numpy the CPU; with
        others "cpu" or None, which mean the framework's default device.
    backend : {"mmap", "pread"}
        Accepted without effect: fastio chooses by the state of the page cache.
    verify, options
        As `fastio.open` takes them.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, FormatError, ReadError
        As `fastio.load` does.
    UsageError
        An unknown framework, device or backend.
    TypeError
        An argument of another type.

    Examples
    --------
    >>> with fastio.safe_open("model.safetensors", framework="np") as file:
    ...     file.get_slice("weight")[:, 1]
    array([1., 4.], dtype=float32)
    """

    def __init__(
        self,
        filename: str | os.PathLike[str],
        framework: FrameworkName,
        device: str | int | None = "cpu",
        *,
        backend: str = "mmap",
        verify: Verify = True,
        options: Options | None = None,
    ) -> None:
        self._filename = _checked(filename, framework, backend)
        reader = Reader(
            partial(locate_again, [filename]), framework=framework, verify=verify, options=options
        )
        self._device = device
        self._move = reader._framework.mover_to(device)
        self._opened: Reader | None = reader

    @property
    def _reader(self) -> Reader:
        if self._opened is None:
            raise UsageError(f"{self._filename} is closed")
        return self._opened

    def keys(self) -> list[str]:
        """Return the names, sorted.

        Examples
        --------
        >>> fastio.safe_open("model.safetensors", "np").keys()
        ['bias', 'weight']
        """
        return sorted(self._reader.keys())

    def offset_keys(self) -> list[str]:
        """Return the names, in file order.

        Examples
        --------
        >>> fastio.safe_open("model.safetensors", "np").offset_keys()
        ['bias', 'weight']
        """
        return self._reader.keys()

    def metadata(self) -> dict[str, str] | None:
        """Return the stored metadata without fastio's own keys, or None if there is none.

        Examples
        --------
        >>> fastio.safe_open("model.safetensors", "np").metadata()
        {'format': 'pt'}
        """
        return dict(self._reader.metadata) or None

    def get_tensor_meta(self, name: str) -> TensorMeta:
        """Return a tensor's entry in the header; reads nothing.

        Raises
        ------
        TensorNotFoundError
            With close matches.
        UsageError
            The file is closed.

        Examples
        --------
        >>> fastio.safe_open("model.safetensors", "np").get_tensor_meta("weight").shape
        [2, 3]
        """
        located = self._reader._located
        info = located.info(name)
        (shard,) = located.shards
        begin = info.offset - int(shard.begins[0])  # data has no holes: the first one begins it
        return TensorMeta(info.dtype, list(info.shape), (begin, begin + info.nbytes))

    def get_tensor(self, name: str) -> Any:
        """Return a whole tensor.

        Raises
        ------
        ChecksumError, MemoryError, MemoryLimitError, ReadError, TypeError
            As `fastio.load` does.
        TensorNotFoundError
            With close matches.
        UsageError
            If it is closed.

        Examples
        --------
        >>> fastio.safe_open("model.safetensors", "np").get_tensor("bias")
        array([0., 0., 0.], dtype=float32)
        """
        tensor = self._reader.tensor(name)
        return tensor if self._move is None else self._move(tensor)

    def get_tensors(self) -> dict[str, Any]:
        """Return all tensors, in file order.

        Raises
        ------
        ChecksumError, MemoryError, MemoryLimitError, ReadError, TypeError, UsageError
            As `get_tensor` does.

        Examples
        --------
        >>> list(fastio.safe_open("model.safetensors", "np").get_tensors())
        ['bias', 'weight']
        """
        if self._move is None:
            return self._reader.load()
        if self._reader._framework.destination(self._device, None) is not None:
            return self._reader.load(device=self._device)
        return {name: self._move(tensor) for name, tensor in self._reader.load().items()}

    def get_slice(self, name: str) -> SafeSlice:
        """Return a tensor that is not read yet, and that stays readable when the file is closed.

        Raises
        ------
        TensorNotFoundError, TypeError, UsageError
            As `get_tensor` does.

        Examples
        --------
        >>> with fastio.safe_open("model.safetensors", "np") as file:
        ...     weight = file.get_slice("weight")
        >>> weight[0, 1:]
        array([1., 2.], dtype=float32)
        """
        return SafeSlice(self._reader, name, self._move)

    def _ipython_key_completions_(self) -> list[str]:
        return self.keys()

    @one_line
    def __repr__(self) -> str:
        return f"<fastio.safe_open of {self._filename}{', closed' if self._opened is None else ''}>"

    def __enter__(self) -> safe_open:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        reader, self._opened = self._opened, None
        if reader is not None:
            # Not closed: slices that were taken still read from it, and the last of them frees it.
            reader._access.stop_for_good()


class _safe_open_handle(safe_open):
    """The same of a file that Python has open, by its name. safetensors calls it so.

    Parameters
    ----------
    f : file object
    framework, device, backend
        As `safe_open` takes them.

    Raises
    ------
    TypeError
        If `f` is no file of the filesystem.
    As `safe_open` does.
    """

    def __init__(
        self,
        f: Any,
        framework: FrameworkName,
        device: str | int | None = "cpu",
        *,
        backend: str = "mmap",
    ) -> None:
        name = getattr(f, "name", None)
        if isinstance(name, int):
            name = f"/proc/self/fd/{name}"
        if not isinstance(name, (str, os.PathLike)):
            raise TypeError(
                f"f must be a file with a name, not {type(f).__name__}: fastio.torch.load and "
                "fastio.numpy.load take bytes"
            )
        super().__init__(name, framework, device, backend=backend)


def all_tensors(
    filename: str | os.PathLike[str],
    framework: FrameworkName,
    device: str | int | None,
    backend: str,
) -> dict[str, Any]:
    """Return all tensors of one file, in file order. The arguments are those of `safe_open`.

    Raises
    ------
    As `safe_open` and its `get_tensors` do.
    """
    if device not in ("cpu", None):
        with safe_open(filename, framework, device, backend=backend) as file:
            return file.get_tensors()
    # Nothing is left open: no reader is made for it.
    path = _checked(filename, framework, backend)
    return Load(
        lambda names: locate([path], names),
        framework=framework,
        names=None,
        verify=True,
        options=None,
        report=None,
        to=To(),
    ).now(progress=False)


def _checked(filename: object, framework: object, backend: object) -> str:
    """The path, where the arguments are such as `safe_open` takes."""
    if not isinstance(filename, (str, os.PathLike)):
        raise TypeError(f"filename must be a str or a path, not {type(filename).__name__}")
    for what, value in (("framework", framework), ("backend", backend)):
        if not isinstance(value, str):
            raise TypeError(f"{what} must be a str, not {type(value).__name__}")
    if backend not in _BACKENDS:
        raise UsageError(f"backend={backend!r}: expected one of {', '.join(_BACKENDS)}")
    path = os.fspath(filename)
    if not isinstance(path, str):
        raise TypeError("filename must be a str, not bytes")
    return path


class SafeSlice:
    """A tensor that is not read yet: ``slice[10:20]`` reads only that part.

    Examples
    --------
    >>> part = fastio.safe_open("model.safetensors", "np").get_slice("weight")
    >>> part[1, :2]
    array([3., 4.], dtype=float32)
    """

    # Loops make thousands of them: what is not needed to read is looked up when it is asked for.
    __slots__ = ("_move", "_name", "_position", "_reader")

    def __init__(self, reader: Reader, name: str, move: Callable[[Any], Any] | None) -> None:
        self._reader = reader
        self._name = name
        self._position = reader._located.position(name)
        self._move = move

    @property
    def _info(self) -> TensorInfo:
        return self._reader._located.info(self._name)

    def get_shape(self) -> list[int]:
        """Return the logical shape.

        Examples
        --------
        >>> fastio.safe_open("model.safetensors", "np").get_slice("weight").get_shape()
        [2, 3]
        """
        return list(self._info.shape)

    def get_dtype(self) -> str:
        """Return the dtype, as headers write it.

        Examples
        --------
        >>> fastio.safe_open("model.safetensors", "np").get_slice("weight").get_dtype()
        'F32'
        """
        return self._info.dtype

    def __reduce__(self) -> tuple[Any, ...]:
        # By its name: where it lies in what has the path by then is looked up there.
        return SafeSlice, (self._reader, self._name, self._move)

    @one_line
    def __repr__(self) -> str:
        name = cut(repr(self._info.name), 60)
        return f"<fastio.SafeSlice {name} {self.get_shape()} {self.get_dtype()}>"

    def __getitem__(self, index: Any) -> Any:
        """Return a part, as `fastio.TensorView` does. With torch, an index that is not for
        it (arrays along other axes) is torch's, and reads all of the tensor.
        """
        access = self._reader._access
        try:
            part = access.some(self._position, index)
        except UnknownIndexError:
            # safetensors hands an index to torch; of numpy's own it takes less than fastio.
            if self._reader._framework.NAME != "torch":
                raise
            part = access.all(self._position)[index]
        return part if self._move is None else self._move(part)


PySafeSlice = SafeSlice
"""What safetensors calls it."""
