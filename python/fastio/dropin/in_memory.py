"""A safetensors file in memory: its tensors, verified and copied out."""

from __future__ import annotations

from typing import Any

from fastio.catalog import Catalog, Shard
from fastio.formats import checksums, known, safetensors
from fastio.formats.safetensors import InMemory
from fastio.frameworks import Framework, check_dtypes
from fastio.reading import fetch, verification

_PATH = "<bytes>"


def deserialize(bytes: bytes) -> list[tuple[str, dict[str, Any]]]:
    """Return the tensors of a safetensors file in memory, verified if it carries checksums.

    Parameters
    ----------
    bytes : bytes
        The whole file, under the name that safetensors has for it.

    Returns
    -------
    list of (str, dict)
        Name, and "dtype" (str, as headers write it), "shape" (list of int), "data" (bytearray, a
        copy), in the order of the data.

    Raises
    ------
    FormatError, ChecksumError
        As `fastio.load` does; the path is ``<bytes>``.
    TypeError
        `bytes` is not bytes.

    Examples
    --------
    >>> data = Path("model.safetensors").read_bytes()
    >>> [(name, each["dtype"], each["shape"]) for name, each in fastio.deserialize(data)]
    [('bias', 'F32', [3]), ('weight', 'F32', [2, 3])]
    """
    shard = _locate(bytes)
    view = memoryview(bytes)
    return [
        (name, {"dtype": dtype, "shape": list(shape), "data": bytearray(view[begin:end])})
        for name, dtype, shape, begin, end in _rows(shard)
    ]


def tensors_in(data: bytes, framework: Framework) -> dict[str, Any]:
    """Return the tensors of a safetensors file that is in memory, as copies.

    Raises
    ------
    FormatError, ChecksumError, TypeError
        As `deserialize` does; a dtype that the framework cannot hold.
    """
    shard = _locate(data)
    check_dtypes(Catalog([shard], _PATH), framework)
    made = framework.copies(data, shard.dtypes, shard.shapes, shard.begins, shard.ends)
    return dict(zip(shard.names, made, strict=True))


def _rows(shard: Shard) -> Any:
    begins, ends = shard.begins.tolist(), shard.ends.tolist()
    return zip(shard.names, shard.dtypes, shard.shapes, begins, ends, strict=True)


def _locate(data: bytes) -> Shard:
    if not isinstance(data, bytes):
        raise TypeError(f"data must be bytes, not {type(data).__name__}")
    file = InMemory(_PATH, len(data), data)
    known.require_safetensors(file)
    shard = safetensors.locate(file)
    if shard.unsound is not None:
        verification.tell_once(_PATH, shard.unsound)
    if shard.table is not None:
        with fetch.errors_named(None, _PATH, [shard]):
            checksums.verify(shard.table, data, _PATH)
    return shard
