"""The double of the CUDA driver (tests/native/fake_cuda.h), for Python. Its device memory is host
memory at its own addresses, copied late, and it checks every rule of the driver.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import fastio
from fastio.frameworks import Destination, Origin, Place
from fastio.frameworks import numpy as as_numpy

_NATIVE = Path(__file__).parent.parent / "native"


@functools.cache
def build(folder: Path) -> Path:
    """The double as a shared library: that of the native tests if it exists, or one built in a
    folder.
    """
    sources = [path for path in sorted(_NATIVE.glob("fake_cuda*.cc")) if "test" not in path.name]
    built = _NATIVE.parent.parent / "build/native/tests/native/libfake_cuda.so"
    changed = max(path.stat().st_mtime for path in _NATIVE.glob("fake_cuda*"))
    if built.exists() and built.stat().st_mtime > changed:
        return built
    library = folder / "libfake_cuda.so"
    flags = ["-std=c++20", "-O1", "-g", "-fPIC", "-shared", "-fvisibility=hidden", "-pthread"]
    compiler = os.environ.get("CXX", "c++")
    flags.append(f"-I{_NATIVE.parent.parent / 'csrc'}")
    subprocess.run([compiler, *flags, "-o", library, *sources], check=True)
    return library


class Double:
    """The library's control functions, by their names without the prefix."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(os.fspath(library))
        for name, result in (
            ("allocate", ctypes.c_uint64),
            ("make_stream", ctypes.c_size_t),
            ("default_stream", ctypes.c_size_t),
            ("first_violation", ctypes.c_char_p),
            *((name, ctypes.c_uint64) for name in _COUNTS),
        ):
            getattr(self._library, f"fake_cuda_{name}").restype = result
        for name, arguments in _ARGUMENTS.items():
            getattr(self._library, f"fake_cuda_{name}").argtypes = arguments

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, f"fake_cuda_{name}")

    def fail_call(self, name: str, nth: int, code: int, *, lost: bool = False) -> None:
        """The nth call from now of a driver's function returns a code."""
        self.fail(name.encode(), nth, code, int(lost))


_SIZE, _ADDRESS, _INT = ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int
_COUNTS = (
    "pinned_bytes",
    "device_bytes",
    "copies_executed",
    "copies_pending",
    "bytes_in",
    "bytes_out",
)
_ARGUMENTS: dict[str, list[Any]] = {
    "allocate": [_INT, _SIZE],
    "free": [_ADDRESS],
    "read": [ctypes.c_void_p, _ADDRESS, _SIZE],
    "write": [_ADDRESS, ctypes.c_void_p, _SIZE],
    "fill": [ctypes.c_size_t, _ADDRESS, _INT, _SIZE],
    "hold_stream": [ctypes.c_size_t],
    "release_stream": [ctypes.c_size_t],
    "set_device_bytes": [_SIZE],
    "set_delay": [ctypes.c_uint, _SIZE],
    "fail": [ctypes.c_char_p, _INT, _INT, _INT],
    "calls": [ctypes.c_char_p],
}


class Memory:
    """Memory of the double, which is returned to it."""

    def __init__(self, double: Double, ordinal: int, nbytes: int) -> None:
        self._double = double
        self.address: int = double.allocate(ordinal, nbytes)
        if not self.address:
            raise MemoryError(f"cuda:{ordinal} has no memory for {nbytes} bytes")

        self._nbytes = nbytes
        self.streams: set[int] = set()

    def bytes(self) -> bytes:
        """Its present bytes."""
        found = ctypes.create_string_buffer(self._nbytes)
        self._double.read(found, self.address, self._nbytes)
        return found.raw

    def __del__(self) -> None:
        if self.address:
            self._double.free(self.address)


class OnDouble:
    """A tensor on the double."""

    def __init__(
        self,
        double: Double,
        ordinal: int,
        owner: Memory | None,
        address: int,
        dtype: str,
        shape: tuple[int, ...],
        strides: tuple[int, ...] | None = None,
    ) -> None:
        self._double = double
        self.device = f"cuda:{ordinal}"
        self.ordinal = ordinal
        self.owner = owner
        self.address = address
        self.kind = dtype
        self.dtype = np.dtype(as_numpy.DTYPES[dtype])
        self.shape = shape
        self.strides = strides

    def numpy(self) -> Any:
        """Its present values."""
        out = np.empty(self.shape, self.dtype)
        if out.nbytes:
            self._double.read(out.ctypes.data, self.address, out.nbytes)
        return out


class OnDevice:
    """A destination on the double."""

    def __init__(self, double: Double, ordinal: int, stream: int | None = None) -> None:
        self._double = double
        self.ordinal = ordinal
        if stream is None:
            stream = double.default_stream(ordinal) if ordinal in (0, 1) else 0
        self.stream = stream

    def allocate(self, nbytes: int) -> tuple[object, int]:
        memory = Memory(self._double, self.ordinal, nbytes)
        return memory, memory.address

    def wrap(
        self, owner: Any, address: int, nbytes: int, dtype: str, shape: tuple[int, ...]
    ) -> OnDouble:
        assert nbytes == math.prod(shape) * as_numpy.DTYPES[dtype].itemsize
        return OnDouble(self._double, self.ordinal, owner, address, dtype, shape)

    def used_on(self, owner: Any, other: Destination) -> None:
        """The streams that use memory."""
        owner.streams.add(other.stream)


class Stand:
    """A framework whose devices are the double's and whose CPU tensors are numpy's."""

    NAME = "numpy"
    DTYPES: Mapping[str, Any] = as_numpy.DTYPES

    def __init__(self, double: Double) -> None:
        self._double = double

    def __getattr__(self, name: str) -> Any:
        return getattr(as_numpy, name)

    def destination(self, device: object, stream: Any) -> Destination | None:
        if device in (None, "cpu"):
            return None
        ordinal = int(str(device).removeprefix("cuda").removeprefix(":") or 0)
        return OnDevice(self._double, ordinal, stream)

    def place_of(self, tensor: Any, dtype: str) -> Place:
        if not isinstance(tensor, OnDouble):
            return as_numpy.place_of(tensor, dtype)
        item = tensor.dtype.itemsize
        strides = tensor.strides or np.empty(tensor.shape, tensor.dtype).strides
        return Place(tensor.address, item, tensor.shape, strides, tensor.ordinal)

    def origin_of(self, tensor: Any) -> Origin:
        if not isinstance(tensor, OnDouble):
            return as_numpy.origin_of(tensor)
        nbytes = math.prod(tensor.shape) * tensor.dtype.itemsize
        return Origin(
            tensor.kind, tensor.shape, tensor.address, nbytes, None, 1, tensor, tensor.ordinal
        )

    def note_write(self, tensor: Any) -> None:
        """No account is kept of them."""


def tensor_of(double: Double, array: Any, ordinal: int = 0) -> OnDouble:
    """A tensor on the double with the values of an array."""
    made = tensor_like(double, array, ordinal)
    values = np.ascontiguousarray(array)
    if values.nbytes:
        double.write(made.address, values.ctypes.data, values.nbytes)
    return made


def tensor_like(double: Double, array: Any, ordinal: int = 0) -> OnDouble:
    """A tensor on the double with the dtype and shape of an array, and other values."""
    name = as_numpy.origin_of(np.asarray(array)).dtype
    memory = Memory(double, ordinal, max(array.nbytes, 1))
    return OnDouble(double, ordinal, memory, memory.address, name, array.shape)


@contextlib.contextmanager
def watched(double: Double) -> Iterator[Double]:
    """Two devices that a framework has initialised. At the end, no rule of the driver was broken,
    and only the framework's objects are left.
    """
    fastio.trim()
    double.reset()
    for ordinal in (0, 1):
        assert double.activate(ordinal) == 0
    yield double
    # Lanes that were cancelled end by themselves: the next test may not begin before.
    deadline = time.monotonic() + 60
    while any(_left(double).values()) and time.monotonic() < deadline:
        time.sleep(0.002)
    assert double.violations() == 0, double.first_violation().decode()
    left = _left(double)
    assert left == dict.fromkeys(left, 0)


def _left(double: Double) -> dict[str, int]:
    fastio.trim()
    return {name: getattr(double, name)() for name in _NOTHING_LEFT}


_NOTHING_LEFT = ("pinned_bytes", "contexts_retained", "streams_alive", "events_alive")
