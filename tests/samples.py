"""Safetensors files for these tests, and their tensors by the safetensors package."""

import ctypes
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from fastio.catalog.dtypes import DTYPES

Spec = Mapping[str, tuple[str, tuple[int, ...]]]
"""dtype and shape of each tensor, in the order of the data."""

CHUNK_BYTES = 1 << 20
"""What `fastio.seal` takes for files of this size."""


def nbytes_of(dtype: str, shape: tuple[int, ...]) -> int:
    """The bytes of a tensor."""
    count = 1
    for length in shape:
        count *= length
    return count * DTYPES[dtype].bits // 8


def write(
    path: Path,
    spec: Spec,
    *,
    seed: int = 0,
    start_modulo_8: int = 0,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a file of random bytes whose data starts at an offset of `start_modulo_8` modulo 8."""
    rng = np.random.default_rng(seed)
    entries: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    data = []
    end = 0
    for name, (dtype, shape) in spec.items():
        nbytes = nbytes_of(dtype, shape)
        values = rng.integers(0, 2 if dtype == "BOOL" else 256, nbytes, np.uint8)
        entries[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [end, end + nbytes],
        }
        end += nbytes
        data.append(values.tobytes())
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * ((start_modulo_8 - len(header)) % 8)
    content = len(header).to_bytes(8, "little") + header + b"".join(data)
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, len(content))  # contiguous on the disk
        file.write(content)
    return path


# Small and large tensors, an empty one, and one that is larger than a block and shares its chunks.
MODEL: Spec = {
    "embed.weight": ("BF16", (1000, 1024)),
    "norm.weight": ("F32", (1024,)),
    "layers.0.weight": ("F16", (2049, 1025)),
    "layers.0.empty": ("F32", (0, 7)),
    "layers.0.scale": ("F32", ()),
    "layers.1.weight": ("I8", (1535, 1023)),
    "mask": ("BOOL", (77,)),
    "head.weight": ("BF16", (1000, 2000)),
}


def write_model(path: Path, *, seed: int = 0) -> Path:
    """Write a file of about 12 MB in the shapes of `MODEL`."""
    return write(path, MODEL, seed=seed)


def write_even(path: Path, count: int, nbytes: int, *, seed: int = 0) -> Path:
    """Write a file of `count` tensors of `nbytes` bytes each, t0, t1, and so on."""
    return write(path, {f"t{i}": ("U8", (nbytes,)) for i in range(count)}, seed=seed)


def data_start(path: Path) -> int:
    """The offset of the first byte of data."""
    with path.open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


def chunk_count(path: Path) -> int:
    """The number of chunks of a sealed file."""
    return -(-(path.stat().st_size - data_start(path)) // CHUNK_BYTES)


def expected_bytes(*paths: Path) -> dict[str, bytes]:
    """The bytes of each tensor, as the safetensors package gives them."""
    return {
        name: bytes(tensor["data"])
        for path in paths
        for name, tensor in safetensors.deserialize(path.read_bytes())
    }


def bytes_of(tensor: Any) -> bytes:
    """The memory of a numpy array or a torch tensor."""
    if isinstance(tensor, np.ndarray):
        return tensor.tobytes()
    return ctypes.string_at(tensor.data_ptr(), tensor.numel() * tensor.element_size())


def loaded_bytes(tensors: Mapping[str, Any]) -> dict[str, bytes]:
    """The memory of each tensor."""
    return {name: bytes_of(tensor) for name, tensor in tensors.items()}


def same_bytes(tensors: Mapping[str, Any], expected: Mapping[str, bytes]) -> bool:
    """Whether these are the expected tensors, byte by byte; a failed `==` would print them."""
    return loaded_bytes(tensors) == dict(expected)


def flip(path: Path, offset: int, bit: int = 0) -> None:
    """Flip a bit of a file, in place; a negative offset counts from the end."""
    with path.open("r+b") as file:
        at = file.seek(offset, os.SEEK_SET if offset >= 0 else os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << bit]))


def eventually(condition: Callable[[], bool], *, within_s: float = 10) -> bool:
    """Whether a condition that other threads bring about comes true."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def open_files() -> int:
    """The number of open descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


def native_threads() -> int:
    """The number of threads of this process, Python's and others."""
    return len(os.listdir("/proc/self/task"))


def in_threads(count: int, call: Callable[[int], Any]) -> list[Any]:
    """Call it in the given number of threads, which begin together."""
    barrier = threading.Barrier(count)

    def begin(i: int) -> Any:
        barrier.wait()
        return call(i)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(begin, range(count)))


class Elsewhere:
    """A call on a thread of its own, and its result."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self._call = call
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._call()
        except BaseException as error:
            self.error = error

    @property
    def done(self) -> bool:
        """Whether the call has ended."""
        return not self._thread.is_alive()

    def join(self) -> None:
        """Wait for the end."""
        self._thread.join()


@contextmanager
def elsewhere(call: Callable[[], Any]) -> Iterator[Elsewhere]:
    """Run a call on a thread that is joined at the end."""
    other = Elsewhere(call)
    try:
        yield other
    finally:
        other.join()
