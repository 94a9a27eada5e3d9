"""The content of a `File`: read when it is asked for, or kept until it is saved."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fastio.display.values import shown
from fastio.errors import UsageError
from fastio.formats.gguf import TYPES_KEY
from fastio.formats.hierarchy import Annotations, parents
from fastio.formats.npy import DTYPES_KEY
from fastio.frameworks import numpy as numpy_arrays
from fastio.host.memory import available_bytes
from fastio.reading.reader import Reader
from fastio.saving.hdf5_file import ENDINGS

Values = npt.NDArray[Any]

# Datasets that are not given as arrays take memory; larger ones take a file without a name.
_MEMORY_SHARE = 4


class Content:
    """Datasets by path, and what is beside them; of a file that is read or written.

    Parameters
    ----------
    target : pathlib.Path
        The file.
    mode : {"r", "r+"}
    reader : Reader, optional
        What datasets are read by; without it there are none at first.
    """

    def __init__(self, target: Path, mode: str, reader: Reader | None = None) -> None:
        self.target = target
        self.mode = mode
        self.is_open = True
        self.reader = reader
        self.arrays: dict[str, Values] = {}
        self.annotations = Annotations()
        if reader is not None:
            beside = dict(reader.metadata)
            for key in (DTYPES_KEY, TYPES_KEY):  # of formats, and not of the file
                beside.pop(key, None)
            self.annotations = Annotations.of(beside)
            self._read = dict.fromkeys(map(self._path_of, reader))
        else:
            self._read = {}

    @property
    def filename(self) -> str:
        """The path of the file."""
        return str(self.target)

    def require_open(self) -> None:
        """Refuse what needs an open file.

        Raises
        ------
        UsageError
        """
        if not self.is_open:
            raise UsageError(f"the file {self.filename} is closed")

    def require_writable(self) -> None:
        """Refuse what changes a file that is only read.

        Raises
        ------
        UsageError
        """
        self.require_open()
        if self.mode == "r":
            raise UsageError(f"{self.filename} was opened to be read: mode='r+' changes it")

    def close(self) -> None:
        """Let go of everything."""
        self.is_open = False
        if self.reader is not None:
            self.reader.close()
        self.arrays, self.annotations, self._read = {}, Annotations(), {}

    def _path_of(self, name: str) -> str:
        if any(part in ("", ".") for part in name.split("/")):
            problem = f"the name {shown(name)} is no path: fastio.open reads the file"
            raise UsageError(f"{self.filename}: {problem}")
        return name

    def keep_all(self) -> None:
        """Read everything, so that it can be changed.

        Raises
        ------
        ChecksumError, FormatError, MemoryError, ReadError
        """
        if self.reader is not None:
            self.arrays = self.reader.load()
            self.reader.close()
            self.reader, self._read = None, {}

    def datasets(self) -> list[str]:
        """Return the paths of datasets, in the order of the file, or as they were made."""
        return [*self._read, *self.arrays, *self.annotations.texts]

    def groups(self) -> set[str]:
        """Return the paths of all groups but the file itself."""
        named = self.annotations.groups | {path for path in self.annotations.attributes if path}
        datasets = set(self.datasets())
        return parents(datasets | named) | (named - datasets)

    def empty_groups(self) -> set[str]:
        """Return the paths of groups that nothing lies in."""
        datasets = set(self.datasets())
        named = self.annotations.groups
        return named - parents(datasets | named)

    def remove(self, path: str) -> None:
        """Remove a dataset, or a group with all that lies in it."""
        beside = self.annotations
        for columns in (self.arrays, beside.texts, beside.attributes):
            for each in [key for key in columns if key == path or key.startswith(f"{path}/")]:
                del columns[each]
        if above := path.rpartition("/")[0]:
            beside.groups.add(above)  # a group stays without its members
        gone = {each for each in beside.groups if each == path or each.startswith(f"{path}/")}
        beside.groups -= gone

    def has(self, path: str) -> bool:
        """Return whether a dataset is there."""
        return path in self._read or path in self.arrays or path in self.annotations.texts

    def description(self, path: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Return shape and dtype of a dataset."""
        if path in self.annotations.texts:
            values = np.asarray(self.annotations.texts[path], object)
            return values.shape, values.dtype
        if path in self.arrays:
            return self.arrays[path].shape, self.arrays[path].dtype
        reader = self._reader_of(path)
        dtype = numpy_arrays.DTYPES[reader.info(path).dtype]
        return tuple(reader[path].shape), dtype

    def part(self, path: str, index: Any) -> Any:
        """Return values of a dataset, with memory of their own."""
        if path in self.annotations.texts:
            return np.asarray(self.annotations.texts[path], object)[index]
        if path in self.arrays:
            found = self.arrays[path][index]
            return found.copy() if isinstance(found, np.ndarray) else found
        reader = self._reader_of(path)
        if index is Ellipsis or (isinstance(index, tuple) and not index):
            whole = reader.tensor(path)
            return whole if index is Ellipsis else whole[()]
        if isinstance(index, np.ndarray):
            if index.dtype == bool and index.ndim != 1:
                return reader.tensor(path)[index]
            index = np.flatnonzero(index) if index.dtype == bool else index
        elif isinstance(index, np.integer):
            index = int(index)
        found = reader[path][index]
        return found[()] if isinstance(found, np.ndarray) and not found.ndim else found

    def _reader_of(self, path: str) -> Reader:
        if self.reader is None or path not in self._read:
            raise KeyError(f"{self.filename}: {shown(path)} is no longer there")
        return self.reader

    def put(self, path: str, index: Any, values: Any) -> None:
        """Change values of a dataset.

        Raises
        ------
        KeyError
            It was removed.
        UsageError
            It has texts.
        """
        if path in self.annotations.texts:
            raise UsageError(f"{self.filename}: the texts of {shown(path)} cannot be changed")
        if path not in self.arrays:
            raise KeyError(f"{self.filename}: {shown(path)} is no longer there")
        self.arrays[path][index] = values


def blank(shape: tuple[int, ...], dtype: np.dtype[Any], beside: Path) -> Values:
    """Return zeros, in memory or in a file without a name.

    Parameters
    ----------
    shape : tuple of int
    dtype : numpy.dtype
    beside : pathlib.Path
        The file lies in the folder of this one.
    """
    nbytes = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if nbytes <= (available_bytes() or nbytes) // _MEMORY_SHARE:
        return np.zeros(shape, dtype)
    with tempfile.TemporaryFile(dir=beside.parent) as scratch:
        os.posix_fallocate(scratch.fileno(), 0, nbytes)
        return np.memmap(scratch, dtype, "r+", shape=shape)


def check_dtype(dtype: np.dtype[Any], path: str, target: Path) -> None:
    """Refuse a dtype that the file cannot have.

    Raises
    ------
    UsageError
    """
    is_extension = dtype.isbuiltin == 2  # of ml_dtypes
    if dtype.newbyteorder("=") not in numpy_arrays.NAMES or (is_hdf5(target) and is_extension):
        kind = "an HDF5 file" if is_hdf5(target) else "a file"
        raise UsageError(f"dataset {shown(path)} has the dtype {dtype}, which {kind} has not")


def checked_attribute(name: Any, value: Any) -> Any:
    """Return an attribute as it is kept.

    Raises
    ------
    UsageError
        It is something else than numbers, texts, and lists and arrays of them.
    """
    if not isinstance(name, str) or not name:
        raise UsageError(f"attribute {shown(name)}: expected a name")
    if isinstance(value, bytes):
        value = _decoded(value, name)
    array = np.asarray(value)
    is_text = array.dtype.kind == "U" or (
        array.dtype == object and all(isinstance(each, str) for each in array.flat)
    )
    if not is_text and array.dtype.kind not in "biuf":
        expected = "numbers, texts, and lists of them"
        raise UsageError(f"attribute {shown(name)} is {shown(value)}: expected {expected}")
    if array.ndim:
        return array.tolist() if is_text else array.copy()
    return array.item() if isinstance(value, np.generic | np.ndarray) else value


def _decoded(value: bytes, path: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{shown(path)}: {error}") from None


def is_hdf5(path: Path) -> bool:
    """Return whether a file of that name is written as HDF5."""
    return path.suffix.lower() in ENDINGS


def checked(values: Any, path: str, dtype: Any, target: Path) -> Values | str | list[Any]:
    """Return values as a dataset has them: an array of its own, or texts.

    Raises
    ------
    UsageError
        A dtype that no file has.
    """
    if isinstance(values, (str, bytes)):
        return values if isinstance(values, str) else _decoded(values, path)
    array: Values = np.array(values, dtype, order="C")
    if array.dtype.kind in "SU" or (
        array.dtype.hasobject and all(isinstance(each, str) for each in array.flat)
    ):
        texts: list[Any] = (
            np.char.decode(array).tolist() if array.dtype.kind == "S" else array.tolist()
        )
        return texts
    check_dtype(array.dtype, path, target)
    return array
