"""HDF5 files, and so Keras' ``.h5``: datasets by path, attributes as metadata.

https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html. h5py reads the structure. The
bytes of a contiguous dataset, and those of chunks without filters, lie in the file as they do in
memory. Filtered chunks are decoded here, on several threads and outside of the library's lock:
deflate, shuffle and fletcher32. The library decodes all others, and datasets in the header.

A dataset in group ``g`` is ``g/name``. Attributes are metadata, and datasets of texts, too, as
`fastio.formats.hierarchy` has them.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastio.catalog import Readable, Shard
from fastio.catalog.encodings import Encoding, StoredPart
from fastio.display.values import shown
from fastio.errors import FormatError
from fastio.formats import npy
from fastio.formats.array_order import ArrayOrder, Reordered
from fastio.formats.hdf5_filters import PLAIN, Filters, Library, Repeated, library
from fastio.formats.hierarchy import Annotations, plain
from fastio.formats.rows import Row, check_shape, shard_of
from fastio.formats.seekable import Seekable

_GROUPS_DEPTH_MAX = 100
_MEMBERS_MAX = 2**20
# Chunks that are not stored, of a dataset whose fill value is not zero.
_GAPS_MAX = 2**14
# The library reads as many bytes at a time.
_SLAB_BYTES = 2**22
_SLABS_MAX = 2**12

_log = logging.getLogger("fastio")


def locate(file: Readable, first: bytes) -> Shard:
    """Say where the datasets of a file lie.

    Parameters
    ----------
    file : Readable
        Stays open.
    first : bytes
        Its first bytes.

    Raises
    ------
    FormatError
        If the file is not valid or cut off, points out of itself, or has a dataset of a type that
        no tensor has.
    ImportError
        If there is no h5py: the extra that brings it.
    ReadError
        If reading fails.
    """
    h5py = library()
    try:
        with h5py.File(Seekable(file), "r") as opened:
            found = _Structure(file, h5py, opened)
            return shard_of(file, found.rows(), found.metadata(), first)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        if isinstance(error, FormatError):
            raise
        problem = f"cannot be read by h5py: {shown(str(error))}"
        raise FormatError(file.path, problem, expected="a whole HDF5 file") from error


class _Structure:
    """The groups, datasets and attributes of an open file.

    Parameters
    ----------
    file : Readable
    h5py : module
    opened : h5py.File
    """

    def __init__(self, file: Readable, h5py: Any, opened: Any) -> None:
        self._file = file
        self._h5py = h5py
        self._annotations = Annotations()
        self._datasets: dict[str, Any] = {}
        self._dtypes: dict[str, str] = {}
        self._above: list[Any] = []  # the groups that the visited one lies in
        self._visited = 0
        self._visit(opened, "")

    def _refuse(self, problem: str, expected: str, at: int | None = None) -> FormatError:
        return FormatError(self._file.path, problem, offset=at, expected=expected)

    def _visit(self, group: Any, path: str) -> None:
        """Note what a group holds, under each path that leads to it, but for circles."""
        identity = self._h5py.h5o.get_info(group.id).addr
        if identity in self._above:
            return
        if len(self._above) > _GROUPS_DEPTH_MAX:
            raise self._refuse(f"has groups in groups: {shown(path)}", "fewer levels")
        self._above.append(identity)
        self._visit_members(group, path)
        self._above.pop()

    def _visit_members(self, group: Any, path: str) -> None:
        self._note_attributes(group, path)
        if path and not len(group):
            self._annotations.groups.add(path)
        for name in group:
            inner = f"{path}/{name}" if path else name
            self._visited += 1
            if self._visited > _MEMBERS_MAX:
                raise self._refuse("has too many links to its groups", f"{_MEMBERS_MAX} members")
            link = group.get(name, getlink=True)
            if isinstance(link, self._h5py.ExternalLink):
                where = shown(link.filename)
                raise self._refuse(f"{shown(inner)} lies in another file, {where}", "one file")
            try:
                found = group[name]
            except KeyError:
                _log.warning("%s: link %s leads nowhere: left out", self._file.path, shown(inner))
                continue
            if isinstance(found, self._h5py.Group):
                self._visit(found, inner)
            elif isinstance(found, self._h5py.Dataset):
                self._note_attributes(found, inner)
                self._datasets[inner] = found

    def _note_attributes(self, owner: Any, path: str) -> None:
        for name in owner.attrs:
            try:
                value = plain(owner.attrs[name])
            except (OSError, TypeError, ValueError) as error:
                value = f"not read by h5py: {error}"
            self._annotations.attributes.setdefault(path, {})[name] = value

    def rows(self) -> list[Row]:
        """Return the datasets, each once by its own name; those that share bytes are copied."""
        found, begins = [], set()
        for path, dataset in self._datasets.items():
            row = self._row(path, dataset)
            if row is None:
                continue
            if not row.parts and row.begin < row.end:
                if row.begin in begins:
                    parts = (StoredPart(row.begin, row.end, PLAIN),)
                    row = Row(row.name, row.dtype, row.shape, row.begin, row.end, parts)
                begins.add(row.begin)
            found.append(row)
        return found

    def metadata(self) -> dict[str, str]:
        """Return attributes, texts, and the dtypes that HDF5 calls otherwise."""
        found = self._annotations.metadata()
        if self._dtypes:
            found[npy.DTYPES_KEY] = json.dumps(self._dtypes)
        return found

    def _row(self, path: str, dataset: Any) -> Row | None:
        shape = dataset.shape
        if shape is None:  # a null dataspace
            self._annotations.texts[path] = None
            return None
        if self._h5py.check_string_dtype(dataset.dtype) and dataset.dtype.hasobject:
            texts = dataset.asstr(errors="surrogateescape")[()]
            self._annotations.texts[path] = plain(texts)
            return None
        properties = dataset.id.get_create_plist()
        h5d = self._h5py.h5d
        layout = properties.get_layout()
        if layout == h5d.VIRTUAL or properties.get_external_count():
            raise self._refuse(f"{shown(path)} lies in other files", "data in this file")
        check_shape(self._file.path, path, shape)
        header = npy.header_of(self._file.path, path, None, dataset.dtype, shape)
        if header.called is not None:
            self._dtypes[path] = header.called
        if math.prod(header.shape) == 0:
            return Row(path, header.dtype, header.shape, 0, 0)
        # h5py may call a type by a dtype of other bits, fields or padding than the file has.
        stored_type = self._h5py.h5t.py_create(dataset.dtype, logical=True)
        if stored_type == dataset.id.get_type():
            if layout == h5d.CONTIGUOUS and dataset.id.get_offset() is not None:
                return npy.row_of(header, path, dataset.id.get_offset())
            if layout == h5d.CHUNKED and self._has_few_gaps(dataset):
                return self._chunked(path, dataset, header)
        return self._through_the_library(path, dataset, header)

    def _has_few_gaps(self, dataset: Any) -> bool:
        """Whether the chunks that are not stored are worth to be listed one by one."""
        pairs = zip(dataset.shape, dataset.chunks, strict=True)
        count = math.prod(-(-length // size) for length, size in pairs)
        return count - dataset.id.get_num_chunks() <= _GAPS_MAX or not _is_filled(dataset)

    def _through_the_library(self, path: str, dataset: Any, header: npy.Header) -> Row:
        """A dataset whose bytes are no values, or that is in the header, or is not stored."""
        shape = dataset.shape
        extra = header.shape[len(shape) :]
        if not shape:
            part = StoredPart(0, 0, Library(self._file.path, path, (), ()))
            return Row(path, header.dtype, header.shape, 0, 0, (part,))
        row_bytes = max(math.prod(header.shape[1:]) * header.stored.itemsize, 1)
        count = max(_SLAB_BYTES // row_bytes, -(-shape[0] // _SLABS_MAX), 1)
        parts = []
        for at in range(0, shape[0], count):
            start = (at, *(0 for _ in shape[1:]))
            box = (min(count, shape[0] - at), *shape[1:])
            encoding = Library(self._file.path, path, start, box)
            parts.append(StoredPart(0, 0, encoding, *_with_axes(start, box, extra)))
        return Row(path, header.dtype, header.shape, 0, 0, tuple(parts))

    def _chunked(self, path: str, dataset: Any, header: npy.Header) -> Row:
        chunk = tuple(dataset.chunks)
        extra = header.shape[len(chunk) :]
        filters = Filters.of(dataset, dataset.dtype.itemsize)
        parts, there = [], set()
        stored: list[Any] = []
        dataset.id.chunk_iter(stored.append)
        for info in stored:
            start = tuple(info.chunk_offset)
            there.add(start)
            encoding: Encoding
            if filters is None:
                encoding = Library(self._file.path, path, start, chunk)
            else:
                encoding = filters.without(info.filter_mask)
                if not header.stored.isnative:
                    encoding = Reordered(encoding, ArrayOrder(header.stored, (*chunk, *extra), 0))
            begin = info.byte_offset
            box = _with_axes(start, chunk, extra)
            parts.append(StoredPart(begin, begin + info.size, encoding, *box))
        if _is_filled(dataset):
            fill = np.asarray(dataset.fillvalue, dataset.dtype)
            values = Repeated(fill.astype(fill.dtype.newbyteorder("=")).tobytes())
            for start in _grid(dataset.shape, chunk):
                if start not in there:
                    parts.append(StoredPart(0, 0, values, *_with_axes(start, chunk, extra)))
        begin = min((part.begin for part in parts), default=0)
        end = max((part.end for part in parts), default=0)
        if not parts:  # no chunk is there, and zeros are the fill value
            parts.append(StoredPart(0, 0, Repeated(b"\0")))
        return Row(path, header.dtype, header.shape, begin, end, tuple(parts))


_Sizes = tuple[int, ...]


def _with_axes(start: _Sizes, shape: _Sizes, extra: _Sizes) -> tuple[_Sizes, _Sizes]:
    """Start and shape of a box, with the axes that byte strings have as tensors."""
    return (*start, *(0 for _ in extra)), (*shape, *extra)


def _is_filled(dataset: Any) -> bool:
    """Whether values that are not stored are something else than zeros."""
    return bool(np.asarray(dataset.fillvalue, dataset.dtype).tobytes().strip(b"\0"))


def _grid(shape: tuple[int, ...], chunk: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    counts = [-(-length // size) for length, size in zip(shape, chunk, strict=True)]
    for index in np.ndindex(*counts):
        yield tuple(at * size for at, size in zip(index, chunk, strict=True))
