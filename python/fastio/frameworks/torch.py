"""torch tensors over loaded memory, through DLPack. Wraps only; reads nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.dlpack import from_dlpack

import fastio._native as _native
from fastio.catalog.dtypes import shape_in_memory, shapes_in_memory
from fastio.errors import DtypeError, UsageError
from fastio.frameworks import Origin, Place, torch_modes
from fastio.frameworks.torch_devices import destination, mover_to
from fastio.frameworks.torch_dtypes import BYTE, CODES, DTYPES, HELD, IS_CUDA, NAMES

NAME = "torch"

_NOT_INITIALIZED = (torch.nn.UninitializedParameter, torch.nn.UninitializedBuffer)

__all__ = [
    "DTYPES",
    "NAME",
    "adopt",
    "copies",
    "destination",
    "dtype_of",
    "mover_to",
    "note_write",
    "origin_of",
    "part_mapped",
    "place_of",
    "wrap",
    "wrap_mapped",
]


def wrap(
    loaded: _native.Loaded,
    shard: int,
    dtypes: Sequence[str],
    shapes: list[tuple[int, ...]],
    first: int = 0,
) -> list[torch.Tensor]:
    """Return one tensor for each of a row of them in a shard, each with a storage of its own bytes.

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
    codes, bits = _codes(dtypes)
    capsules = loaded.dlpack(shard, codes, bits, shapes_in_memory(dtypes, shapes), first)
    return _tensors(capsules, dtypes)


def copies(
    data: bytes,
    dtypes: Sequence[str],
    shapes: list[tuple[int, ...]],
    begins: npt.NDArray[np.int64],
    ends: npt.NDArray[np.int64],
) -> list[torch.Tensor]:
    """Return tensors out of bytes that have them from `begins` to `ends`, each as a copy.

    Raises
    ------
    ValueError
        A dtype and shape that do not come to a tensor's bytes.
    """
    capsules = _native.dlpack_copies(
        data, begins, ends, *_codes(dtypes), shapes_in_memory(dtypes, shapes)
    )
    return _tensors(capsules, dtypes)


def _codes(dtypes: Sequence[str]) -> tuple[bytes, bytes]:
    """The codes of dtypes in DLPack, one byte each, and their bits."""
    codes = [CODES.get(dtype, BYTE) for dtype in dtypes]
    return bytes([code for code, _ in codes]), bytes([bits for _, bits in codes])


def _tensors(capsules: Sequence[object], dtypes: Sequence[str]) -> list[torch.Tensor]:
    tensors: list[torch.Tensor] = [from_dlpack(capsule) for capsule in capsules]
    if torch_modes.count():
        tensors = [torch_modes.lift(tensor) for tensor in tensors]
    for index, dtype in enumerate(dtypes):
        viewed = DTYPES[dtype]
        if viewed is not None:
            tensors[index] = tensors[index].view(viewed)
    return tensors


def wrap_mapped(
    file: _native.MappedFile, row: int, dtype: str, shape: tuple[int, ...]
) -> torch.Tensor:
    """Return one tensor of a file that is in the page cache.

    Raises
    ------
    ChecksumError
        If it is verified, and damaged.
    ReadError
        If the file ends before.
    """
    code = CODES.get(dtype)
    if code is not None:
        tensor = from_dlpack(file.dlpack(row, code[0], code[1], shape))
        return torch_modes.lift(tensor) if torch_modes.count() else tensor
    tensor = from_dlpack(file.dlpack(row, *BYTE, shape_in_memory(dtype, shape)))
    if torch_modes.count():
        tensor = torch_modes.lift(tensor)
    return tensor.view(HELD[dtype])


def part_mapped(
    file: _native.MappedFile, row: int, dtype: str, shape: tuple[int, ...], index: object
) -> torch.Tensor | None:
    """Return a part of a tensor of a file that is in the page cache; None for an index with
    anything but ints and slices, and for an empty part.

    Raises
    ------
    As `wrap_mapped` does.
    """
    code = CODES.get(dtype, BYTE)
    capsule = file.dlpack_part(row, *code, shape_in_memory(dtype, shape), index)
    if capsule is None:
        return None
    (tensor,) = _tensors([capsule], [dtype])
    return tensor


def adopt(memory: npt.NDArray[np.uint8], dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return memory as a tensor; `shape` is that of the tensor.

    Raises
    ------
    RuntimeError
        If dtype and shape do not come to the bytes.
    """
    if not memory.size:
        return torch.empty(shape, dtype=HELD[dtype], device="cpu")  # the default may be another
    if HELD[dtype].itemsize == 1:
        return torch.from_numpy(memory.reshape(shape)).view(HELD[dtype])
    return torch.from_numpy(memory).view(HELD[dtype]).reshape(shape)


def dtype_of(dtype: str) -> torch.dtype:
    """Return what torch calls a dtype.

    Raises
    ------
    KeyError
        If torch cannot hold it.
    """
    return HELD[dtype]


def place_of(tensor: torch.Tensor, dtype: str) -> Place:
    """Return where a tensor of this dtype goes in one that exists.

    Raises
    ------
    TypeError
        If that is of another dtype, not strided, or neither on the CPU nor on a CUDA device.
    ValueError
        If its memory was taken away.
    """
    if tensor.dtype != HELD[dtype]:
        raise TypeError(f"is a tensor of {tensor.dtype}, and not of {HELD[dtype]} ({dtype})")
    if tensor.device.type == "cuda" and IS_CUDA:
        return _place(tensor)._replace(device=tensor.device.index)
    if tensor.device.type == "meta":
        raise TypeError("is on the device meta, and has no memory: to_empty() gives it some")
    if tensor.device.type != "cpu":
        raise TypeError(f"is on the device {tensor.device}, and not on the CPU or a CUDA device")
    return _place(tensor)


def origin_of(tensor: torch.Tensor) -> Origin:
    """Return where the bytes of a tensor are taken from. One on a device that is not CUDA's is
    brought to the CPU.

    Raises
    ------
    DtypeError
        If no file can hold its dtype.
    TypeError
        If it is not strided, or has no values (the device meta).
    UsageError
        If it is a single pair of F4, which a header's shape cannot say.
    ValueError
        If its memory was taken away.
    """
    _check_strided(tensor)
    dtype = tensor.dtype
    name = NAMES.get(dtype)
    if name is None:
        raise DtypeError(f"is a tensor of {dtype}, which no safetensors file can hold")
    if tensor.device.type != "cpu":
        if tensor.device.type == "meta":
            raise TypeError("is on the device meta, and has no values")
        tensor = tensor.detach()
        if tensor.device.type == "cuda" and IS_CUDA:
            return _origin_on_device(tensor.contiguous(), name)
        tensor = tensor.to("cpu")
    nbytes = tensor.numel() * dtype.itemsize
    place = None
    if tensor.is_contiguous():  # nearly all are, and there may be a hundred thousand
        _check_storage(tensor, nbytes)
    else:
        place = _place(tensor)
    shape = _shape_in_file(tensor, name)
    return Origin(name, shape, tensor.data_ptr(), nbytes, place, 1, tensor)


def _origin_on_device(tensor: torch.Tensor, name: str) -> Origin:
    nbytes = tensor.numel() * tensor.dtype.itemsize
    _check_storage(tensor, nbytes)
    shape = _shape_in_file(tensor, name)
    ordinal = tensor.device.index
    return Origin(name, shape, tensor.data_ptr(), nbytes, None, 1, tensor, ordinal)


def _shape_in_file(tensor: torch.Tensor, name: str) -> tuple[int, ...]:
    shape = tuple(tensor.shape)
    if name != "F4":
        return shape
    if not shape:
        raise UsageError("is a single pair of F4, and a header counts single values")
    return (*shape[:-1], shape[-1] * 2)


def _place(tensor: torch.Tensor) -> Place:
    _check_strided(tensor)
    shape, stride = tuple(tensor.shape), tensor.stride()
    item_bytes = tensor.dtype.itemsize
    if tensor.numel():
        reach = sum(step * (length - 1) for step, length in zip(stride, shape, strict=True))
        _check_storage(tensor, (reach + 1) * item_bytes)
    strides = tuple(step * item_bytes for step in stride)
    return Place(tensor.data_ptr(), item_bytes, shape, strides)


def _check_strided(tensor: torch.Tensor) -> None:
    kind = type(tensor)
    if kind is not torch.Tensor and kind is not torch.nn.Parameter:
        _check_kind(kind)
    if tensor.layout is not torch.strided or tensor.is_nested:
        raise TypeError("is not strided: make it a dense one first (to_dense())")
    if tensor.is_conj() or tensor.is_neg():
        raise TypeError(
            "is a view whose values do not lie in memory as they are: resolve_conj() or "
            "resolve_neg() gives one whose do"
        )


def _check_kind(kind: type[torch.Tensor]) -> None:
    """Refuse classes whose tensors have no values of their own to point to."""
    if issubclass(kind, _NOT_INITIALIZED):
        raise ValueError("is not initialized: run its LazyModule once")
    if kind.__torch_dispatch__ is torch.Tensor.__torch_dispatch__:
        return
    if kind.__name__ == "FakeTensor":
        raise TypeError(
            "is a FakeTensor, which has a shape and no values: make it outside of FakeTensorMode"
        )
    raise TypeError(
        f"is a {kind.__name__}, whose values are not its own: make it a plain tensor first "
        "(a DTensor: full_tensor() or to_local())"
    )


def _check_storage(tensor: torch.Tensor, reached_bytes: int) -> None:
    """Refuse a tensor whose memory was taken away, as far as it reaches from its first value, or
    that never had any.
    """
    if not reached_bytes:
        return
    try:
        storage = tensor.untyped_storage()
        storage.data_ptr()
    except RuntimeError as error:
        raise TypeError(f"has no memory of its own: {error}") from None
    begin = tensor.storage_offset() * tensor.dtype.itemsize
    if storage.nbytes() < begin + reached_bytes:
        raise ValueError("has a storage of fewer bytes than it needs")


def note_write(tensor: torch.Tensor) -> None:
    """Say that a tensor was written to, as `Tensor.copy_` does: a gradient that still needs what it
    held is an error then, and not a wrong one.

    Raises
    ------
    Nothing.
    """
    if not tensor.is_inference():  # which has no versions
        torch.autograd.graph.increment_version(tensor)
