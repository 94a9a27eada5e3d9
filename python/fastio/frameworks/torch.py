"""torch tensors over loaded memory, through DLPack. Wraps only; reads nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.dlpack import from_dlpack

from fastio import _native
from fastio.catalog import shape_in_memory, shapes_in_memory
from fastio.errors import UsageError
from fastio.frameworks import Place

NAME = "torch"

# DLPack's type codes, https://dmlc.github.io/dlpack/latest/c_api.html: the dtypes that every torch
# release takes over as they are.
_INT, _UINT, _FLOAT, _BFLOAT, _COMPLEX, _BOOL = 0, 1, 2, 4, 5, 6
_BYTE = (_UINT, 8)
_CODES: dict[str, tuple[int, int]] = {
    "BOOL": (_BOOL, 8),
    "U8": (_UINT, 8),
    "I8": (_INT, 8),
    "U16": (_UINT, 16),
    "I16": (_INT, 16),
    "F16": (_FLOAT, 16),
    "BF16": (_BFLOAT, 16),
    "U32": (_UINT, 32),
    "I32": (_INT, 32),
    "F32": (_FLOAT, 32),
    "U64": (_UINT, 64),
    "I64": (_INT, 64),
    "F64": (_FLOAT, 64),
    "C64": (_COMPLEX, 64),
}

# Handed over as bytes and viewed: not every release knows their codes. F4 packs two values in a
# byte, and torch counts the pairs.
_VIEWED = {
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F4": "float4_e2m1fn_x2",
}

DTYPES: dict[str, torch.dtype | None] = {
    **dict.fromkeys(_CODES),
    **{name: getattr(torch, dtype) for name, dtype in _VIEWED.items() if hasattr(torch, dtype)},
}
"""The dtypes that torch can hold, each with the one its bytes are viewed as, or None."""


# What each dtype of a header is called here.
_HELD: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "F32": torch.float32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F64": torch.float64,
    "C64": torch.complex64,
    **{name: dtype for name, dtype in DTYPES.items() if dtype is not None},
}


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
    codes = [_CODES.get(dtype, _BYTE) for dtype in dtypes]
    capsules = loaded.dlpack(
        shard,
        bytes(code for code, _ in codes),
        bytes(bits for _, bits in codes),
        shapes_in_memory(dtypes, shapes),
        first,
    )
    tensors: list[torch.Tensor] = [from_dlpack(capsule) for capsule in capsules]
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
    code = _CODES.get(dtype)
    if code is not None:
        return from_dlpack(file.dlpack(row, code[0], code[1], shape))
    tensor = from_dlpack(file.dlpack(row, *_BYTE, shape_in_memory(dtype, shape)))
    return tensor.view(_HELD[dtype])


def adopt(memory: npt.NDArray[np.uint8], dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return memory as a tensor; `shape` is that of the tensor.

    Raises
    ------
    RuntimeError
        If dtype and shape do not come to the bytes.
    """
    if not memory.size:
        return torch.empty(shape, dtype=_HELD[dtype])
    if _HELD[dtype].itemsize == 1:
        return torch.from_numpy(memory.reshape(shape)).view(_HELD[dtype])
    return torch.from_numpy(memory).view(_HELD[dtype]).reshape(shape)


def dtype_of(dtype: str) -> torch.dtype:
    """Return what torch calls a dtype.

    Raises
    ------
    KeyError
        If torch cannot hold it.
    """
    return _HELD[dtype]


def place_of(tensor: torch.Tensor, dtype: str) -> Place:
    """Return where a tensor of this dtype goes in one that exists.

    Raises
    ------
    TypeError
        If that is of another dtype, not strided, or not on the CPU.
    ValueError
        If its memory was taken away.
    """
    if tensor.dtype != _HELD[dtype]:
        raise TypeError(f"is a tensor of {tensor.dtype}, and not of {_HELD[dtype]} ({dtype})")
    if tensor.device.type != "cpu":
        raise TypeError(f"is on the device {tensor.device}, and not on the CPU")
    if tensor.layout is not torch.strided or tensor.is_conj() or tensor.is_neg():
        raise TypeError("is no tensor whose values lie in memory as they are")
    item_bytes = tensor.dtype.itemsize
    reach = sum(
        stride * (length - 1) for stride, length in zip(tensor.stride(), tensor.shape, strict=True)
    )
    needed_bytes = (tensor.storage_offset() + reach + 1) * item_bytes
    if tensor.numel() and tensor.untyped_storage().nbytes() < needed_bytes:
        raise ValueError("has a storage of fewer bytes than it needs")
    strides = tuple(stride * item_bytes for stride in tensor.stride())
    return Place(tensor.data_ptr(), item_bytes, tuple(tensor.shape), strides)


def note_write(tensor: torch.Tensor) -> None:
    """Say that a tensor was written to, as `Tensor.copy_` does: a gradient that still needs what it
    held is an error then, and not a wrong one.

    Raises
    ------
    Nothing.
    """
    if not tensor.is_inference():  # which has no versions
        torch.autograd.graph.increment_version(tensor)


def mover_to(device: object) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Return what takes a tensor to a device; None for the CPU, where it is.

    Raises
    ------
    UsageError
        If there is no such device, or it holds no values.
    RuntimeError
        If torch has none of these here.
    """
    if device in ("cpu", None):
        return None
    if isinstance(device, (int, np.integer)) and type(device) is not bool and device >= 0:
        found = torch.device(
            int(device)
        )  # of the accelerator there is; a RuntimeError where none is
    elif isinstance(device, (str, torch.device)):
        try:
            found = torch.device(device)
        except RuntimeError as error:
            raise UsageError(f"device={device!r}: {str(error).splitlines()[0]}") from None
    else:
        raise UsageError(f"device={device!r}: expected what torch calls a device")
    if found.type == "cpu":
        return None
    if found.type == "meta":
        raise UsageError(f"device={device!r}: a tensor there has no values")
    accelerator = torch.accelerator.current_accelerator() if hasattr(torch, "accelerator") else None
    if found.type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(f"device={device!r}: torch has no CUDA here")
    if found.type not in ("cuda", getattr(accelerator, "type", None)):
        raise RuntimeError(f"device={device!r}: torch has no such device here")
    return lambda tensor: tensor.to(found)
