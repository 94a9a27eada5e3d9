"""Frameworks that hold tensors, by the names people call them; each module only wraps memory."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, cast, get_args

import numpy as np
import numpy.typing as npt

import fastio._native as _native
from fastio.catalog import Catalog, Shard, TensorInfo
from fastio.display.values import shown
from fastio.errors import DtypeError, UsageError

NumpyName: TypeAlias = Literal["numpy", "np"]
TorchName: TypeAlias = Literal["torch", "pt", "pytorch"]
FrameworkName: TypeAlias = Literal[
    "numpy", "np", "torch", "pt", "pytorch", "jax", "flax", "tensorflow", "tf", "mlx", "paddle"
]
"""What ``framework=`` may be: a type checker finds what is misspelled."""

_ALIASES = {"np": "numpy", "pt": "torch", "pytorch": "torch", "flax": "jax", "tf": "tensorflow"}
# By the package that defines a class and the name of the class there: tensors are recognised
# without an import of their framework.
_CLASSES = {
    ("torch", "Tensor"): "torch",
    ("jaxlib", "ArrayImpl"): "jax",
    ("tensorflow", "Tensor"): "tensorflow",
    ("mlx", "array"): "mlx",
    ("paddle", "Tensor"): "paddle",
}


class MissingFrameworkError(UsageError, ImportError):
    """A framework that is not installed."""


class Place(NamedTuple):
    """Memory of the caller that one tensor goes to.

    Attributes
    ----------
    address : int
        Of the element whose indices are all 0.
    item_bytes : int
        Of one element.
    shape : tuple of int
    strides : tuple of int
        In bytes.
    device : int
        The ordinal of the accelerator that it is on; -1 for the CPU.
    """

    address: int
    item_bytes: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    device: int = -1


class Origin(NamedTuple):
    """Memory that the bytes of one tensor are taken from.

    Attributes
    ----------
    dtype : str
        As safetensors calls it.
    shape : tuple of int
        As a header has it.
    address : int
        Of the element whose indices are all 0.
    nbytes : int
    place : Place or None
        The layout where the bytes do not lie one behind the other, or are swapped; else None.
    swapped_bytes : int
        Of each value that is stored the other way round than in a file; else 1.
    owner : object
        What keeps the memory alive; for memory of a device the tensor.
    device : int
        The ordinal of the accelerator that it is on; -1 for the CPU.
    """

    dtype: str
    shape: tuple[int, ...]
    address: int
    nbytes: int
    place: Place | None
    swapped_bytes: int
    owner: object
    device: int = -1


class Destination(Protocol):
    """An accelerator as a framework has it, and the stream whose work comes before a load."""

    @property
    def ordinal(self) -> int:
        """The driver's number of it; -1 for the CPU."""

    @property
    def stream(self) -> int:
        """The driver's handle."""

    def allocate(self, nbytes: int) -> tuple[object, int]:
        """Return what owns new memory there, and its address, a multiple of 256."""

    def wrap(
        self, owner: Any, address: int, nbytes: int, dtype: str, shape: tuple[int, ...]
    ) -> Any:
        """Return a part of that memory as a tensor with a storage of its own; `owner` is None for
        one of no bytes.
        """

    def used_on(self, owner: object, other: Destination) -> None:
        """Say of memory from here that another stream uses it, too."""


class Framework(Protocol):
    """The functions of each module here."""

    NAME: str

    @property
    def DTYPES(self) -> Mapping[str, Any]: ...

    wrap: Callable[..., list[Any]]

    def wrap_mapped(
        self, file: _native.MappedFile, row: int, dtype: str, shape: tuple[int, ...]
    ) -> Any: ...
    def part_mapped(
        self,
        file: _native.MappedFile,
        row: int,
        dtype: str,
        shape: tuple[int, ...],
        index: object,
    ) -> Any: ...
    def copies(
        self,
        data: bytes,
        dtypes: Sequence[str],
        shapes: list[tuple[int, ...]],
        begins: npt.NDArray[np.int64],
        ends: npt.NDArray[np.int64],
    ) -> list[Any]: ...
    def adopt(self, memory: npt.NDArray[np.uint8], dtype: str, shape: tuple[int, ...]) -> Any: ...
    def dtype_of(self, dtype: str) -> Any: ...
    def place_of(self, tensor: Any, dtype: str) -> Place: ...
    def origin_of(self, tensor: Any) -> Origin: ...
    def note_write(self, tensor: Any) -> None: ...
    def destination(self, device: object, stream: object) -> Destination | None: ...
    def mover_to(self, device: object) -> Callable[[Any], Any] | None: ...


def framework(name: object) -> Framework:
    """Return the module for a framework, by any of the names in `FrameworkName`.

    Raises
    ------
    UsageError
        If it is none of these.
    MissingFrameworkError
        If the framework is not installed.
    """
    if not isinstance(name, str) or name not in get_args(FrameworkName):
        expected = ", ".join(get_args(FrameworkName))
        raise UsageError(f"framework={shown(name)}: expected one of {expected}")
    module = _ALIASES.get(name, name)
    try:
        return _module(module)
    except ImportError as error:
        raise MissingFrameworkError(
            f"framework={name!r} needs {module}, which cannot be imported: {error}"
        ) from error


def framework_of(tensor: object) -> Framework | None:
    """Return the module of the framework that a tensor is of; None where it is of no known one.

    Raises
    ------
    Nothing.
    """
    kind = type(tensor)
    if kind not in _of_classes:
        _of_classes[kind] = _framework_of_class(kind)
    return _of_classes[kind]


_of_classes: dict[type, Framework | None] = {}


def _framework_of_class(kind: type) -> Framework | None:
    if issubclass(kind, np.ndarray):
        return _module("numpy")
    for base in kind.__mro__:
        name = _CLASSES.get((base.__module__.partition(".")[0], base.__name__))
        if name is not None:  # a process with such a tensor has imported its framework
            return _module(name)
    return None


_imported: dict[str, Framework] = {}


def _module(name: str) -> Framework:
    if sys.is_finalizing() and name in _imported:  # no module is found any more
        return _imported[name]
    module = importlib.import_module(f"fastio.frameworks.{name}")
    found = cast(Framework, getattr(module, "FRAMEWORK", module))
    _imported[name] = found
    return found


def import_those_in_use() -> None:
    """Import the modules of numpy, and of the frameworks that the process has imported.

    Raises
    ------
    Nothing: what cannot be imported is told by the call that needs it.
    """
    _module("numpy")
    for (package, _), name in _CLASSES.items():
        spec = getattr(sys.modules.get(package), "__spec__", None)
        # Not in the middle of its own import, whose end needs no part of fastio.
        if spec is not None and not getattr(spec, "_initializing", False):
            with contextlib.suppress(ImportError):
                _module(name)


def check_dtypes(catalog: Catalog, framework: Framework) -> None:
    """Refuse tensors that a framework cannot hold.

    Raises
    ------
    DtypeError
        Names the file, the tensor and its dtype.
    """
    for shard in catalog.shards:
        unknown = set(shard.dtypes) - framework.DTYPES.keys()
        if unknown or "F4" in shard.dtypes:
            _find_unheld(shard, framework)


def _find_unheld(shard: Shard, framework: Framework) -> None:
    for name, dtype, shape in zip(shard.names, shard.dtypes, shard.shapes, strict=True):
        check_dtype(TensorInfo(name, dtype, shape, shard.path, 0, 0), framework)


def check_dtype(info: TensorInfo, framework: Framework) -> None:
    """Refuse a tensor that a framework cannot hold.

    Raises
    ------
    DtypeError
        Names the file, the tensor and its dtype. Also for F4 whose rows do not end with a byte:
        frameworks hold pairs of its values.
    """
    if info.dtype not in framework.DTYPES:
        raise DtypeError(
            f"{info.path}: tensor {info.name!r} has dtype {info.dtype}, which {framework.NAME} "
            "cannot hold"
        )
    if info.dtype == "F4" and info.shape[-1] % 2:
        raise DtypeError(
            f"{info.path}: tensor {info.name!r} has dtype F4 and shape {list(info.shape)}: its "
            f"rows are not whole bytes, which {framework.NAME} cannot hold"
        )
