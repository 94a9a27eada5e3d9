"""The devices of torch, their streams, and tensors over memory there."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.dlpack import from_dlpack

import fastio._native as _native
from fastio.display.values import shown
from fastio.errors import DeviceError, UsageError
from fastio.frameworks import Destination, torch_modes
from fastio.frameworks.torch_dtypes import BYTE, CODES, DTYPES, HELD, IS_CUDA

_DEFAULT_STREAMS = (0, 1)  # CU_STREAM_LEGACY, by its two handles
_awake: set[int] = set()  # devices that torch has initialised: fastio itself never does


class OnCuda:
    """A CUDA device of torch, and the stream that a load comes behind.

    Parameters
    ----------
    device : torch.device
        With its index.
    stream : int
        The driver's handle.
    """

    def __init__(self, device: torch.device, stream: int) -> None:
        self._device = device
        self.ordinal: int = device.index
        self.stream = stream

    def allocate(self, nbytes: int) -> tuple[object, int]:
        """Return memory of torch's allocator, and its address.

        It is that stream's: the allocator hands out what queued work still uses, and a load is
        behind the work of no other stream.

        Raises
        ------
        MemoryError
            If the device has none left.
        """
        try:
            with torch_modes.Outside(), torch.cuda.stream(_stream(self.stream, self._device)):
                owner = torch.empty(nbytes, dtype=torch.uint8, device=self._device)
        except torch.cuda.OutOfMemoryError as error:
            raise MemoryError(f"{self._device} has no memory for {nbytes} bytes") from error
        return owner, owner.data_ptr()

    def wrap(
        self, owner: Any, address: int, nbytes: int, dtype: str, shape: tuple[int, ...]
    ) -> torch.Tensor:
        """Return a part of that memory as a tensor with a storage of its own.

        Raises
        ------
        ValueError
            A dtype and shape that do not come to the bytes.
        """
        if owner is None:
            return torch.empty(shape, dtype=HELD[dtype], device=self._device)
        code, bits = CODES.get(dtype, BYTE)
        tensor = from_dlpack(
            _native.device_dlpack(owner, self.ordinal, address, code, bits, shape, nbytes)
        )
        if torch_modes.count():
            tensor = torch_modes.lift(tensor)
        viewed = DTYPES[dtype]
        return tensor if viewed is None else tensor.view(viewed)

    def used_on(self, owner: Any, other: Destination) -> None:
        """Keep memory from being handed out anew before what is in another stream now is done.

        `Tensor.record_stream` of a loaded tensor does nothing: torch does not know its memory.
        """
        device = torch.device("cuda", other.ordinal)
        with torch_modes.Outside():
            owner.record_stream(_stream(other.stream, device))


def destination(device: object, stream: object) -> OnCuda | None:
    """Return where tensors of a device go; None for the CPU, and for accelerators that tensors are
    moved to when they are loaded.

    Parameters
    ----------
    device : str, int, torch.device or None
    stream : object
        The stream that a load comes behind: an object with ``__cuda_stream__`` or ``cuda_stream``,
        or the driver's handle; None for the device's current one.

    Raises
    ------
    MemoryError
        If the device has none left.
    DeviceError, UsageError
        As `mover_to` does; for a stream that is none.
    """
    found = _device(device)
    if found is None or found.type != "cuda" or not IS_CUDA:
        if stream is not None:
            raise UsageError(f"stream= is for CUDA, and device={device!r} has none")
        return None
    index = getattr(found, "index", None)  # stubs say that every device has one
    if index is None:
        index = torch.cuda.current_device()
    found = torch.device("cuda", index)
    if index >= torch.cuda.device_count():
        raise UsageError(
            f"device={device!r}: there is no such device, torch has {torch.cuda.device_count()}"
        )
    if stream is None:
        stream = torch.cuda.current_stream(found)
    made = OnCuda(found, _stream_handle(stream))
    if index not in _awake:  # tensors of no bytes are not the first that torch has there
        made.allocate(1)
        _awake.add(index)
    return made


def _stream(handle: int, device: torch.device) -> torch.cuda.Stream:
    """A stream of torch's, or somebody else's, by the driver's handle."""
    if handle in _DEFAULT_STREAMS:
        return torch.cuda.default_stream(device)
    external: Any = torch.cuda.ExternalStream  # torch has not typed it
    made: torch.cuda.Stream = external(handle, device=device)
    return made


def _stream_handle(stream: object) -> int:
    """The driver's handle; https://nvidia.github.io/cuda-python has the protocol."""
    try:
        if hasattr(stream, "__cuda_stream__"):
            _, handle = stream.__cuda_stream__()
        else:
            handle = getattr(stream, "cuda_stream", stream)
        found = operator.index(handle)
    except (TypeError, ValueError):
        found = -1
    if found < 0 or isinstance(stream, bool):
        raise UsageError(
            f"stream={shown(stream)}: expected an object with __cuda_stream__, or a handle"
        )
    return found


def mover_to(device: object) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Return what takes a tensor to a device; None for the CPU, where it is.

    Raises
    ------
    UsageError
        If there is no such device, or it holds no values.
    DeviceError
        If torch has none of these here.
    """
    found = _device(device)
    return None if found is None else lambda tensor: tensor.to(found)


def _device(device: object) -> torch.device | None:
    """A device that torch has here; None for the CPU."""
    if device in ("cpu", None):
        return None
    accelerator = _accelerator()
    if isinstance(device, (int, np.integer)) and type(device) is not bool and device >= 0:
        if accelerator is None:
            raise _none_here(device, f"torch has no accelerator here{_why_no_cuda()}")
        found = torch.device(accelerator, int(device))
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
    if found.type == "cuda" and not torch.cuda.is_available():
        raise _none_here(device, f"torch has no CUDA here{_why_no_cuda()}")
    if found.type not in ("cuda", accelerator):
        raise _none_here(device, "torch has no such device here")
    return found


def _accelerator() -> str | None:
    """The type of the accelerator that torch finds; None where it finds none.

    A CUDA build names its accelerator also without a GPU, so it is asked whether there is one.
    """
    if torch.cuda.is_available():
        return "cuda"
    if not hasattr(torch, "accelerator"):  # before 2.6
        return None
    found = torch.accelerator.current_accelerator()
    return None if found is None or found.type == "cuda" else found.type


def _why_no_cuda() -> str:
    if torch.version.cuda is None and getattr(torch.version, "hip", None) is None:
        return f": torch {torch.__version__} is built without CUDA"
    return f": torch {torch.__version__} is built with CUDA, but finds no driver or no GPU"


def _none_here(device: object, detail: str) -> DeviceError:
    return DeviceError(f"device={device!r}", "", 0, detail)
