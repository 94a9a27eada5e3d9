"""Possible damage to one root of a store, as functions that do it."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import fastio
from store.samples import CHUNK_BYTES, create, shards_of, tensors


def flip(path: Path, at: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


def each_shard(root: Path, change: Callable[[Path], object]) -> None:
    for shard in shards_of(root):
        change(shard)


def truncate(shard: Path) -> None:
    os.truncate(shard, shard.stat().st_size // 2)


def damage_header(shard: Path) -> None:
    flip(shard, 100)


def damage_data(shard: Path) -> None:
    size = shard.stat().st_size
    start = 8 + int.from_bytes(shard.read_bytes()[:8], "little")
    if size > start:
        flip(shard, size - 1)
        flip(shard, start)


def swap_chunks(shard: Path) -> None:
    data = bytearray(shard.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    if len(data) - start < 2 * CHUNK_BYTES:
        return
    first = slice(start, start + CHUNK_BYTES)
    second = slice(start + CHUNK_BYTES, start + 2 * CHUNK_BYTES)
    data[first], data[second] = data[second], data[first]
    shard.write_bytes(data)


def _to_a_symlink(shard: Path) -> None:
    other = shard.with_name("elsewhere")
    shard.rename(other)
    shard.symlink_to(other)


def _to_a_folder(shard: Path) -> None:
    shard.unlink()
    shard.mkdir()


def _to_a_pipe(shard: Path) -> None:
    shard.unlink()
    os.mkfifo(shard)


def _foreign(shard: Path) -> None:
    fastio.save({"other": np.arange(shard.stat().st_size // 8)}, shard)


def _swap_shards(root: Path) -> None:
    shards = shards_of(root)
    datas = [shard.read_bytes() for shard in shards]
    for shard, data in zip(shards, datas[1:] + datas[:1], strict=True):
        shard.write_bytes(data)


def _duplicate_shards(root: Path) -> None:
    shards = shards_of(root)
    for shard in shards[1:]:
        shard.write_bytes(shards[0].read_bytes())


def _empty(root: Path) -> None:
    shutil.rmtree(root)
    root.mkdir()


def _of_another_store(root: Path) -> None:
    shutil.rmtree(root)
    other = create(root.parent / "other", 1)
    other.save(tensors(9))
    other.close()
    shutil.move(root.parent / "other" / "root0", root)


def each_manifest(root: Path, change: Callable[[Path], object]) -> None:
    for path in (root / "manifests").iterdir():
        change(path)


def each_record(root: Path, change: Callable[[Path], object]) -> None:
    for path in (root / "commits").iterdir():
        change(path)


def _link_shards_elsewhere(root: Path) -> None:
    (root / "shards").rename(root.parent / "moved")
    (root / "shards").symlink_to(root.parent / "moved")


FAULTS: dict[str, Callable[[Path], Any]] = {
    "missing root": shutil.rmtree,
    "empty root": _empty,
    "root of another store": _of_another_store,
    "identity damaged": lambda root: flip(root / "fastio-root.json", 20),
    "identity missing": lambda root: (root / "fastio-root.json").unlink(),
    "no commits": lambda root: each_record(root, Path.unlink),
    "commits damaged": lambda root: each_record(root, lambda path: flip(path, 30)),
    "commits empty": lambda root: each_record(root, lambda path: path.write_bytes(b"")),
    "commits folder missing": lambda root: shutil.rmtree(root / "commits"),
    "no manifests": lambda root: each_manifest(root, Path.unlink),
    "manifests damaged": lambda root: each_manifest(root, lambda path: flip(path, 99)),
    "manifests cut off": lambda root: each_manifest(root, truncate),
    "shards folder missing": lambda root: shutil.rmtree(root / "shards"),
    "shards folder a symlink": _link_shards_elsewhere,
    "shards missing": lambda root: each_shard(root, Path.unlink),
    "shards cut off": lambda root: each_shard(root, truncate),
    "shards empty": lambda root: each_shard(root, lambda path: path.write_bytes(b"")),
    "shards longer": lambda root: each_shard(
        root, lambda path: path.write_bytes(path.read_bytes() + b"x")
    ),
    "headers damaged": lambda root: each_shard(root, damage_header),
    "data damaged": lambda root: each_shard(root, damage_data),
    "chunks swapped": lambda root: each_shard(root, swap_chunks),
    "shards swapped": _swap_shards,
    "shards duplicated": _duplicate_shards,
    "shards foreign": lambda root: each_shard(root, _foreign),
    "shards symlinks": lambda root: each_shard(root, _to_a_symlink),
    "shards folders": lambda root: each_shard(root, _to_a_folder),
    "shards pipes": lambda root: each_shard(root, _to_a_pipe),
}
# Skipped if another root has the bytes.
UNSEEN = {
    "no commits",
    "no manifests",
    "manifests damaged",
    "manifests cut off",
    "headers damaged",
}
