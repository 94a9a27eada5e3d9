"""An HDF5 file, written by h5py beside its place, which then takes it whole and durably."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from fastio.errors import WriteError
from fastio.formats.hdf5_filters import library
from fastio.formats.hierarchy import Annotations
from fastio.host.replacement import Replacement

ENDINGS = (".h5", ".hdf5", ".hdf")
# Of datasets in the file, so that they can be read directly.
_ALIGNMENT = 4096


def write(
    path: Path, arrays: Mapping[str, npt.NDArray[Any]], beside: Annotations, *, durable: bool
) -> None:
    """Write a file.

    Parameters
    ----------
    path : pathlib.Path
    arrays : mapping of str to numpy.ndarray
        By path in the file.
    beside : Annotations
    durable : bool

    Raises
    ------
    ImportError
        There is no h5py.
    WriteError
    """
    h5py = library()
    new = Replacement.heir(path)
    try:
        try:
            # By Python's own calls: the library finds no real path of a file without a name.
            with (
                open(new.readable_path, "r+b") as raw,
                h5py.File(
                    raw, "w", alignment_threshold=_ALIGNMENT, alignment_interval=_ALIGNMENT
                ) as file,
            ):
                _fill(h5py, file, arrays, beside)
        except OSError as error:
            code = error.errno or errno.EIO
            raise WriteError(code, "write", path, detail=str(error)) from error
        new.inherit()
        new.commit(durable=durable)
    finally:
        new.close()


def _fill(
    h5py: Any, file: Any, arrays: Mapping[str, npt.NDArray[Any]], beside: Annotations
) -> None:
    for path in sorted(beside.groups):
        file.require_group(path)
    for path, array in arrays.items():
        file.create_dataset(path, data=array)
    for path, text in beside.texts.items():
        if text is None:
            file[path] = h5py.Empty("f4")
        else:
            file.create_dataset(path, data=text, dtype=h5py.string_dtype())
    for path, attributes in beside.attributes.items():
        owner = file.require_group(path) if path and path not in file else file[path or "/"]
        for name, value in attributes.items():
            owner.attrs[name] = value
