"""Tensors and stores that the tests here share."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fastio
from fastio.storage.folder import Folder

SHARD_BYTES = 2**18
CHUNK_BYTES = 2**16


def tensors(seed: int = 0) -> dict[str, Any]:
    """Every kind: small, large enough to be cut, of no bytes, of no axes, packed, strided."""
    random = np.random.default_rng(seed)
    made: dict[str, Any] = {
        f"layers.{at}.weight": random.standard_normal((96, 257)).astype(np.float32)
        for at in range(6)
    }
    made["embedding"] = random.standard_normal((700, 512)).astype(ml_dtypes.bfloat16)
    made["long"] = random.integers(0, 256, 3 * SHARD_BYTES + 17, np.uint8)
    made["transposed"] = random.standard_normal((300, 301)).T
    made["swapped"] = random.integers(0, 2**30, 1000).astype(">i4")
    made["scalar"] = np.float64(random.standard_normal())[...]
    made["empty"] = np.empty((0, 5), np.int16)
    made["flags"] = random.integers(0, 2, 77).astype(bool)
    return made


def create(folder: Path, count: int = 2, **options: Any) -> fastio.Store:
    """A store of the given number of roots in a folder."""
    given = {"shard_bytes": SHARD_BYTES, "chunk_bytes": CHUNK_BYTES, **options}
    given.setdefault("replicas", min(2, count))
    folder.mkdir(exist_ok=True)
    return fastio.Store.create([folder / f"root{at}" for at in range(count)], **given)


def assert_same(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Every tensor has the dtype, shape and bytes that it was saved with."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        native = np.asarray(tensor)
        native = native.astype(native.dtype.newbyteorder("="), order="C")
        assert found[name].dtype == native.dtype, name
        assert found[name].shape == native.shape, name
        assert found[name].tobytes() == native.tobytes(), name


def before_each_put(patch: pytest.MonkeyPatch, call: Callable[[Folder], None]) -> None:
    """Have a call made before each small file that is put into a root."""

    def preceded(real: Callable[..., None]) -> Callable[..., None]:
        def put(storage: Folder, *arguments: Any) -> None:
            call(storage)
            real(storage, *arguments)

        return put

    for name in ("put_if_absent", "replace"):
        patch.setattr(Folder, name, preceded(getattr(Folder, name)))


def shards_of(root: Path) -> list[Path]:
    """The shards that lie on a root."""
    return sorted((root / "shards").iterdir())
