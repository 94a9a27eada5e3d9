"""Tensors of a source that are streamed into new files, with other names and dtypes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes
import numpy as np

from fastio.catalog import TensorInfo
from fastio.catalog.dtypes import DTYPES
from fastio.display.values import shown
from fastio.errors import UsageError
from fastio.formats.checksums import CHUNK_BYTES_DEFAULT, FORMAT_OF_NONE, without_own_keys
from fastio.formats.gguf import TYPES_KEY
from fastio.formats.npy import DTYPES_KEY
from fastio.options import Options
from fastio.report import Report
from fastio.saving import hdf5_file
from fastio.saving.job import Request, run_now
from fastio.saving.origins import Origins, checked_metadata, checked_names, in_file_order
from fastio.saving.streamed import Piece, StreamedWriter

Rename = Mapping[str, str] | Callable[[str], str] | None

_STREAM_BYTES = 2**27
# A larger tensor is read in slices of as many bytes.
_SLICE_BYTES = 2**26
CASTS: dict[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
"""The dtypes that can become one another."""
OTHER_ENDINGS = (*hdf5_file.ENDINGS, ".npy", ".npz", ".pt", ".pth", ".bin", ".gguf")
"""Of files in formats that are not written yet."""
_BY_NAME = (DTYPES_KEY, TYPES_KEY)


class Opened(Protocol):
    """A reader of the source, as far as it is needed here."""

    def __iter__(self) -> Iterator[str]: ...
    def __getitem__(self, name: str) -> Any: ...
    def info(self, name: str) -> TensorInfo: ...
    def stream(
        self, names: Collection[str], *, memory_limit_bytes: int
    ) -> Iterator[tuple[str, Any]]: ...
    @property
    def metadata(self) -> Mapping[str, str]: ...


class Taken:
    """The tensors that are taken from a reader, and what becomes of them.

    Parameters
    ----------
    reader : Opened
    names, rename, dtype
        As `fastio.convert` takes them.

    Raises
    ------
    TensorNotFoundError, TypeError, UsageError
        As `fastio.convert` does.
    """

    def __init__(
        self, reader: Opened, names: Collection[str] | None, rename: Rename, dtype: str | None
    ) -> None:
        self._reader = reader
        self._dtype = dtype
        wanted = None if names is None else set(names)
        infos = [reader.info(name) for name in reader if wanted is None or name in wanted]
        for name in (wanted or set()) - {info.name for info in infos}:
            reader.info(name)  # which raises, with close matches
        self._infos = {info.name: info for info in infos}
        renamed = checked_names([_renamed(info.name, rename) for info in infos])
        self.old_names = dict(zip(renamed, self._infos, strict=True))
        if len(self.old_names) < len(infos):
            twice = next(name for name in renamed if renamed.count(name) > 1)
            raise UsageError(f"two tensors would have the name {shown(twice)}")
        found = Origins.blank(renamed)
        for row, info in enumerate(infos):
            found.dtypes[row] = self._new_dtype(info.dtype)
            found.shapes[row] = info.shape
            bits = DTYPES[found.dtypes[row]].bits
            found.nbytes[row] = math.prod(info.shape) * bits // 8
        self.origins = in_file_order(found)

    def write(
        self,
        path: Path,
        *,
        shard_bytes: int | None,
        durable: bool,
        options: Options,
        progress: bool,
        report: Report,
        begun: tuple[float, float],
    ) -> None:
        """Write the new file, or the files of a folder; arguments are those of a `Request`.

        Raises
        ------
        Exception
            As `fastio.convert` does.
        """
        run_now(
            Request(
                path=path,
                origins=self.origins,
                order=list(self.old_names),
                metadata=self.metadata(),
                shard_bytes=shard_bytes,
                chunk_bytes=CHUNK_BYTES_DEFAULT,
                durable=durable,
                options=options,
                progress=progress,
                report=report,
                begun=begun,
                writer=partial(StreamedWriter, pieces=self.pieces),
            )
        )

    def _new_dtype(self, dtype: str) -> str:
        return self._dtype if self._dtype is not None and dtype in CASTS else dtype

    def metadata(self) -> dict[str, str]:
        """Return the metadata, with new names for old ones."""
        new = {old: name for name, old in self.old_names.items()}
        found = {}
        for key, text in without_own_keys(dict(self._reader.metadata)).items():
            path, at, name = key.partition("@")
            by_name = _object_of(text) if key in _BY_NAME else None
            if by_name is not None:
                kept = {new[old]: kind for old, kind in by_name.items() if old in new}
                found[key] = json.dumps(kept)
            elif at and path in new:
                found[f"{new[path]}@{name}"] = text
            else:
                found[key] = text
        return FORMAT_OF_NONE | (checked_metadata(found) or {})

    def pieces(self, names: Collection[str]) -> Iterator[Piece]:
        """Yield the bytes of tensors that are called so now, in the order of the source."""
        old = [self.old_names[name] for name in names]
        new = {self.old_names[name]: name for name in names}
        large = {name for name in old if self._is_sliced(name)}
        small = [name for name in old if name not in large]
        if small:
            for name, values in self._reader.stream(small, memory_limit_bytes=_STREAM_BYTES):
                yield new[name], 0, self._bytes_of(name, values)
        for name in (name for name in self._infos if name in large):
            at = 0
            for values in self._slices(name):
                data = self._bytes_of(name, values)
                yield new[name], at, data
                at += data.nbytes

    def _is_sliced(self, name: str) -> bool:
        info = self._infos[name]
        return info.nbytes > _SLICE_BYTES and len(info.shape) > 0 and info.dtype != "F4"

    def _slices(self, name: str) -> Iterator[Any]:
        info = self._infos[name]
        rows = max(_SLICE_BYTES // (info.nbytes // info.shape[0]), 1)
        view = self._reader[name]
        return (view[at : at + rows] for at in range(0, info.shape[0], rows))

    def _bytes_of(self, name: str, values: Any) -> Any:
        dtype = self._infos[name].dtype
        if self._new_dtype(dtype) != dtype:
            with np.errstate(over="ignore"):  # to infinity, as every framework rounds
                values = values.astype(CASTS[self._new_dtype(dtype)])
        return np.ascontiguousarray(values).reshape(-1).view(np.uint8)


def _object_of(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _renamed(name: str, rename: Rename) -> str:
    if rename is None:
        return name
    return rename.get(name, name) if isinstance(rename, Mapping) else rename(name)
