"""The requests that a pickle of torch may make: tensors over storages, and plain containers."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from fastio.display.values import shown
from fastio.errors import FormatError
from fastio.formats.pickled import Callee, pairs_of, set_of

_DEPTH_MAX = 100
_ENDING = re.compile(r"\.(pt|pth|bin|ckpt)$")
# torch/_utils.py and torch/storage.py, release 2.13: what tensors are rebuilt by.
_STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
    "ComplexFloatStorage": "C64",
    "UntypedStorage": None,
}
_DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
    "complex64": "C64",
    "float8_e5m2": "F8_E5M2",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e8m0fnu": "F8_E8M0",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float4_e2m1fn_x2": "F4",
}


class _Kind(NamedTuple):
    """A class of storages: the dtype of its values, None for bytes."""

    dtype: str | None


class _Dtype(NamedTuple):
    """A dtype of torch."""

    name: str
    dtype: str


class Storage(NamedTuple):
    """A storage that a pickle names: its key in the file, and the values it has there."""

    key: str
    dtype: str | None
    values: int


class Tensor(NamedTuple):
    """A tensor over a storage; offset and strides count values."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


# ---- what a pickle may ask for


def allowed() -> dict[tuple[str, str], Any]:
    """The globals of one pickle: made anew for each, so that none can change another's."""
    allowed: dict[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): Callee(pairs_of),
        ("builtins", "set"): Callee(set_of),
        ("__builtin__", "set"): Callee(set_of),
        ("torch", "Size"): Callee(_sizes),
        ("torch", "device"): Callee(_device),
        ("torch._utils", "_rebuild_tensor"): Callee(_rebuild),
        ("torch._utils", "_rebuild_tensor_v2"): Callee(_rebuild),
        ("torch._utils", "_rebuild_tensor_v3"): Callee(_rebuild_typed),
        ("torch._utils", "_rebuild_parameter"): Callee(_rebuild_parameter),
        ("torch._utils", "_rebuild_parameter_with_state"): Callee(_rebuild_parameter),
    }
    for name, dtype in _STORAGES.items():
        for module in ("torch", "torch.cuda", "torch.storage"):
            allowed[module, name] = _Kind(dtype)
    for name, dtype in _DTYPES.items():
        allowed["torch", name] = _Dtype(name, dtype)
    return allowed


def persistent(identity: Any) -> Storage:
    """A storage, of ("storage", class, key, device, values, ...)."""
    what, kind, key, _, count, *view = identity
    if what != "storage" or not isinstance(kind, _Kind) or not isinstance(key, str):
        raise TypeError("a persistent id of something else than a storage")
    if view and view[0] is not None:
        raise TypeError("a storage that is a part of another one, as torch 0.3 wrote it")
    (count,) = _sizes((count,))
    return Storage(key, kind.dtype, count)


def _rebuild(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    grad: Any = None,
    hooks: Any = None,
    flags: Any = None,
    *,
    dtype: str | None = None,
) -> Tensor:
    if not isinstance(storage, Storage):
        raise TypeError("a tensor without a storage")
    if isinstance(flags, dict) and any(flags.values()):
        names = ", ".join(map(str, flags))
        raise TypeError(f"a view with {names}: save tensor.resolve_conj().resolve_neg() instead")
    dtype = dtype or storage.dtype
    if dtype is None:
        raise TypeError("a tensor without a dtype")
    (offset,) = _sizes((offset,))
    shape, strides = _sizes(shape), _sizes(strides)
    if len(shape) != len(strides):
        raise ValueError("as many sizes as strides are needed")
    return Tensor(storage, dtype, offset, shape, strides)


def _rebuild_typed(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    grad: Any,
    hooks: Any,
    dtype: Any,
    flags: Any = None,
) -> Tensor:
    if not isinstance(dtype, _Dtype):
        raise TypeError("a dtype of torch is needed")
    return _rebuild(storage, offset, shape, strides, flags=flags, dtype=dtype.dtype)


def _rebuild_parameter(data: Any, *_: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise TypeError("a parameter of something else than a tensor")
    return data


def _device(*where: Any) -> str:
    if not all(isinstance(each, (str, int)) for each in where):
        raise TypeError("a device of something else than texts and numbers")
    return ":".join(map(str, where))


def _sizes(values: Any) -> tuple[int, ...]:
    found = tuple(values)
    if not all(type(value) is int and 0 <= value < 2**63 for value in found):
        raise ValueError(f"sizes {shown(found)}")
    return found


# ---- names and values


def flattened(
    checkpoint: Any, path: str, steps_max: int
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a checkpoint by dotted name, and its other values as JSON."""
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    steps = 0

    def refuse(problem: str) -> FormatError:
        return FormatError(path, problem, expected="plain containers of tensors")

    # Each value takes a byte of the pickle at least, unless a container stands in several places.
    def visit(value: Any, name: str, depth: int) -> Any:
        """The value for JSON, or None where it has tensors: these have their names then."""
        nonlocal steps
        steps += 1
        if steps > steps_max or depth > _DEPTH_MAX:
            raise refuse("has containers that hold themselves, or too many levels of them")
        if isinstance(value, Tensor):
            if name in tensors:
                raise refuse(f"has two tensors that are called {shown(name)}")
            tensors[name] = value
            return _HAS_TENSORS
        items = _items(value)
        if items is None:
            try:
                return _plain(value)
            except TypeError as error:
                raise refuse(f"has something else than values at {shown(name)}: {error}") from error
        before, found = len(tensors), {}
        for key, item in items:
            inner = f"{name}.{key}" if depth else key
            if key in found:
                raise refuse(f"has two values that are called {shown(inner)}")
            found[key] = visit(item, inner, depth + 1)
        if len(tensors) == before and depth:
            return found if isinstance(value, Mapping) else list(found.values())
        for key, item in found.items():
            if item is not _HAS_TENSORS:
                note(f"{name}.{key}" if depth else key, item)
        return _HAS_TENSORS

    def note(name: str, item: Any) -> None:
        if name in metadata:
            raise refuse(f"has two values that are called {shown(name)}")
        metadata[name] = json.dumps(item)

    name = _ENDING.sub("", os.path.basename(path))
    found = visit(checkpoint, name, 0)
    if found is not _HAS_TENSORS:
        note(name, found)
    return tensors, metadata


_HAS_TENSORS = object()


def _items(value: Any) -> Iterable[tuple[str, Any]] | None:
    """The items of a container, by their names. A value that is no container has None."""
    if isinstance(value, dict):
        return ((key if isinstance(key, str) else repr(key), v) for key, v in value.items())
    if isinstance(value, (list, tuple)) and not isinstance(value, (Storage, _Kind, _Dtype)):
        return ((str(at), item) for at, item in enumerate(value))
    return None


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, _Dtype):
        return f"torch.{value.name}"
    if isinstance(value, (bytes, set, frozenset, Storage, _Kind)):
        return shown(value)
    raise TypeError(f"{type(value).__name__} is no value")
