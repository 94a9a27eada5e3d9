"""safetensors and fastio beside each other for saves: the same call on both, and its results."""

import functools
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401 (registers numpy's dtypes by name)
import numpy as np
import safetensors
import safetensors.numpy
import safetensors.torch
import torch

import fastio
import fastio.numpy
import fastio.torch
from fastio.formats import checksums
from samples import bytes_of, nbytes_of

FRAMEWORKS = ("pt", "np")


class Side(NamedTuple):
    """One of the two libraries, and its own folder."""

    library: types.ModuleType
    drop_in: types.ModuleType
    folder: Path

    @property
    def path(self) -> Path:
        """The usual path of its saves."""
        return self.folder / "saved.safetensors"


def sides(framework: Any, folder: Path) -> tuple[Side, Side]:
    """safetensors, fastio."""
    name = {"pt": "torch", "np": "numpy"}[framework]
    found = []
    for library in (safetensors, fastio):
        own = folder / library.__name__
        own.mkdir(exist_ok=True)
        found.append(Side(library, getattr(library, name), own))
    return found[0], found[1]


class Refused(NamedTuple):
    """An error in place of a result."""

    error: Exception


def outcome(call: Callable[[], Any]) -> Any:
    """The result of a call."""
    try:
        return call()
    except Exception as error:
        return Refused(error)


def both(pair: tuple[Side, Side], call: Callable[[Side], Any]) -> tuple[Any, Any]:
    """Make a call on both."""
    theirs, ours = (outcome(functools.partial(call, side)) for side in pair)
    return theirs, ours


def kind(error: Exception) -> type[Exception]:
    """The error that fastio must raise for this error of safetensors."""
    if isinstance(error, safetensors.SafetensorError):
        return fastio.FastioError
    return next(kind for kind in type(error).__mro__ if kind.__module__ == "builtins")


def values(framework: Any, dtype: str, shape: tuple[int, ...], seed: int = 0) -> Any:
    """A tensor of random bytes; its shape is that of a header."""
    nbytes = nbytes_of(dtype, shape)
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 2 if dtype == "BOOL" else 256, nbytes, np.uint8)
    if framework == "np":
        return raw.view(fastio.frameworks.framework("np").dtype_of(dtype)).reshape(shape)
    held = fastio.frameworks.framework("pt").dtype_of(dtype)
    if dtype == "F4":
        shape = (*shape[:-1], shape[-1] // 2)
    if not nbytes:
        return torch.empty(shape, dtype=held)
    if held.itemsize == 1:
        return torch.from_numpy(raw.reshape(shape)).view(held)
    return torch.from_numpy(raw).view(held).reshape(shape)


def assert_same_tensors(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Also of the same dtype and shape, in whatever order."""
    assert sorted(ours) == sorted(theirs)
    for name, tensor in theirs.items():
        assert type(ours[name]) is type(tensor)
        assert ours[name].dtype == tensor.dtype
        assert tuple(ours[name].shape) == tuple(tensor.shape)
        same = bytes_of(ours[name]) == bytes_of(tensor)
        assert same  # `==` in the assertion would print them


def metadata_seen_by_safetensors(path: Path) -> tuple[dict[str, str] | None, set[str]]:
    """The user's part of a file's metadata, and the keys that are fastio's."""
    with safetensors.safe_open(path, "np") as file:
        found = file.metadata()
    if found is None:
        return None, set()
    users = checksums.without_own_keys(found)
    return users, found.keys() - users.keys()
