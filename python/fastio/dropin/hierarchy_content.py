"""What a `File` holds: read from a source when it is asked for, or kept until it is saved."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fastio.errors import UsageError
from fastio.formats.checksums import FORMAT_OF_NONE
from fastio.formats.hierarchy import Annotations, parents
from fastio.frameworks import numpy as numpy_arrays
from fastio.host.memory import available_bytes
from fastio.reading.reader import Reader

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
            # A save adds this for loaders of models, and nobody asked for it here.
            added = FORMAT_OF_NONE.items()
            kept = {key: text for key, text in reader.metadata.items() if (key, text) not in added}
            self.annotations = Annotations.of(kept)
            self._read = dict.fromkeys(reader.keys())
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
        found = self.annotations.groups | parents(datasets | named)
        return found | (named - datasets)

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
        assert self.reader is not None
        view = self.reader[path]
        return tuple(view.shape), np.dtype(numpy_arrays.DTYPES[self.reader.info(path).dtype])

    def part(self, path: str, index: Any) -> Any:
        """Return values of a dataset, with memory of their own."""
        if path in self.annotations.texts:
            return np.asarray(self.annotations.texts[path], object)[index]
        if path in self.arrays:
            found = self.arrays[path][index]
            return found.copy() if isinstance(found, np.ndarray) else found
        assert self.reader is not None
        if index is Ellipsis or index == ():
            whole = self.reader.tensor(path)
            return whole[()] if index == () else whole
        return self.reader[path][index]

    def put(self, path: str, index: Any, values: Any) -> None:
        """Change values of a dataset."""
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


def checked(values: Any, path: str, dtype: Any) -> Values | str | list[Any]:
    """Return values as a dataset has them: an array of its own, or texts.

    Raises
    ------
    UsageError
        A dtype that no file has.
    """
    if isinstance(values, (str, bytes)):
        return values if isinstance(values, str) else values.decode()
    array: Values = np.array(values, dtype, order="C")
    if array.dtype.kind in "SU" or (
        array.dtype.hasobject and all(isinstance(each, str) for each in array.flat)
    ):
        texts: list[Any] = (
            np.char.decode(array).tolist() if array.dtype.kind == "S" else array.tolist()
        )
        return texts
    if array.dtype.newbyteorder("=") not in numpy_arrays.NAMES:
        raise UsageError(f"dataset {path!r} has the dtype {array.dtype}, which no file has")
    return array
