"""numpy arrays over loaded memory. Wraps only; reads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

import fastio._native as _native
from fastio.catalog.dtypes import shape_in_memory, shapes_in_memory
from fastio.errors import DtypeError, UsageError
from fastio.frameworks import Origin, Place

NAME = "numpy"
# F4 holds two values a byte, which no numpy dtype does: it is handed out packed, as uint8 of half
# the length.
DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(dtype)
    for name, dtype in {
        "BOOL": np.bool_,
        "F4": np.uint8,
        "U8": np.uint8,
        "I8": np.int8,
        "F8_E5M2": ml_dtypes.float8_e5m2,
        "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "F8_E8M0": ml_dtypes.float8_e8m0fnu,
        "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
        "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
        "U16": np.uint16,
        "I16": np.int16,
        "F16": np.float16,
        "BF16": ml_dtypes.bfloat16,
        "U32": np.uint32,
        "I32": np.int32,
        "F32": np.float32,
        "U64": np.uint64,
        "I64": np.int64,
        "F64": np.float64,
        "C64": np.complex64,
    }.items()
}

# The names in files of the dtypes of arrays; F4 comes packed, and numpy does not say so.
NAMES = {dtype: name for name, dtype in DTYPES.items() if name != "F4"}


def wrap(
    loaded: _native.Loaded,
    shard: int,
    dtypes: Sequence[str],
    shapes: list[tuple[int, ...]],
    first: int = 0,
) -> list[npt.NDArray[Any]]:
    """Return one array for each of a row of tensors of a shard, each owning its own bytes.

    Parameters
    ----------
    loaded : _native.Loaded
    shard : int
        Index of the file in the load.
    dtypes : sequence of str
        safetensors dtype names, all of them in `DTYPES`.
    shapes : list of tuple of int
    first : int
        Position of the first one in the shard.

    Raises
    ------
    ValueError
        A dtype and shape that do not come to the tensor's bytes.
    """
    as_numpy = [DTYPES[dtype] for dtype in dtypes]
    return loaded.numpy(shard, as_numpy, shapes_in_memory(dtypes, shapes), first)


def wrap_mapped(
    file: _native.MappedFile, row: int, dtype: str, shape: tuple[int, ...]
) -> npt.NDArray[Any]:
    """Return one tensor of a file that is in the page cache.

    Raises
    ------
    ChecksumError
        If it is verified, and damaged.
    ReadError
        If the file ends before.
    """
    return file.numpy(row, DTYPES[dtype], shape_in_memory(dtype, shape))


def part_mapped(
    file: _native.MappedFile, row: int, dtype: str, shape: tuple[int, ...], index: object
) -> npt.NDArray[Any] | None:
    """Return a part of a tensor of a file that is in the page cache; None for an index with
    anything but ints and slices, and for an empty part.

    Raises
    ------
    As `wrap_mapped` does.
    """
    return file.numpy_part(row, DTYPES[dtype], shape_in_memory(dtype, shape), index)


def copies(
    data: bytes,
    dtypes: Sequence[str],
    shapes: list[tuple[int, ...]],
    begins: npt.NDArray[np.int64],
    ends: npt.NDArray[np.int64],
) -> list[npt.NDArray[Any]]:
    """Return tensors out of bytes that have them from `begins` to `ends`, each as a copy.

    Raises
    ------
    ValueError
        A dtype and shape that do not come to a tensor's bytes.
    """
    as_numpy = [DTYPES[dtype] for dtype in dtypes]
    return _native.numpy_copies(data, begins, ends, as_numpy, shapes_in_memory(dtypes, shapes))


def adopt(memory: npt.NDArray[np.uint8], dtype: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Return memory as a tensor; `shape` is that of the array.

    Raises
    ------
    ValueError
        If dtype and shape do not come to the bytes.
    """
    array: npt.NDArray[Any] = np.ndarray(shape, DTYPES[dtype], memory)
    return array


def dtype_of(dtype: str) -> np.dtype[Any]:
    """Return what numpy calls a dtype.

    Raises
    ------
    KeyError
        If numpy cannot hold it.
    """
    return DTYPES[dtype]


def place_of(tensor: npt.NDArray[Any], dtype: str) -> Place:
    """Return where a tensor of this dtype goes in an array.

    Raises
    ------
    TypeError
        If the array is of another dtype, or not native.
    ValueError
        If it is read-only.
    """
    if tensor.dtype != DTYPES[dtype]:
        raise TypeError(f"is an array of {tensor.dtype}, and not of {DTYPES[dtype]} ({dtype})")
    if not tensor.flags.writeable:
        raise ValueError("is read-only")
    address: int = tensor.__array_interface__["data"][0]
    return Place(address, tensor.itemsize, tensor.shape, tensor.strides)


def columns_of(
    tensors: list[Any],
) -> tuple[list[str], list[tuple[int, ...]], npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """Return dtypes, shapes, addresses and bytes of many tensors at once.

    Parameters
    ----------
    tensors : list
        The dtype of what is no array, or needs `origin_of` to look at it, is "".

    Raises
    ------
    Nothing.
    """
    return _native.array_columns(tensors, NAMES)


def origin_of(tensor: npt.NDArray[Any]) -> Origin:
    """Return where the bytes of an array are taken from.

    Raises
    ------
    DtypeError
        If no file can hold its dtype.
    TypeError
        If it is a masked array, whose mask no file can hold.
    """
    name, swapped_bytes = NAMES.get(tensor.dtype), 1
    if name is None:
        name = NAMES.get(tensor.dtype.newbyteorder())
        if name is None:
            raise DtypeError(f"is an array of {tensor.dtype}, which no safetensors file can hold")
        swapped_bytes = tensor.itemsize // 2 if tensor.dtype.kind == "c" else tensor.itemsize
    if isinstance(tensor, np.ma.MaskedArray):
        raise TypeError("is a masked array, and a file has no place for its mask")
    address, shape, place = _native.address_of(tensor), tensor.shape, None
    if swapped_bytes > 1 or not tensor.flags.c_contiguous:
        place = Place(address, tensor.itemsize, shape, tensor.strides)
    return Origin(name, shape, address, tensor.nbytes, place, swapped_bytes, tensor)


def note_write(tensor: npt.NDArray[Any]) -> None:
    """Say that an array was written to: nobody keeps account of that.

    Raises
    ------
    Nothing.
    """


def destination(device: object, stream: object) -> None:
    """Return where tensors of a device go; None for the CPU.

    Raises
    ------
    UsageError
        For any other, and for a stream.
    """
    mover_to(device)
    if stream is not None:
        raise UsageError("stream= is for a device, and numpy has its arrays on the CPU")


def mover_to(device: object) -> None:
    """Return what takes a tensor to a device; None for the CPU, where it is.

    Raises
    ------
    UsageError
        For any other.
    """
    if device not in ("cpu", None):
        raise UsageError(f"device={device!r}: numpy has its arrays on the CPU")
