"""File, as h5py has it: groups, datasets and attributes, over HDF5 and over fastio's own files."""

from __future__ import annotations

import errno
import os
from functools import partial
from pathlib import Path
from types import TracebackType

from fastio.arguments.paths import AnyPath
from fastio.display.values import shown
from fastio.dropin.hierarchy_content import Content, is_hdf5
from fastio.dropin.hierarchy_groups import Group
from fastio.formats import known
from fastio.formats.hdf5_filters import library
from fastio.formats.opening import open_file
from fastio.locate import locate_again
from fastio.options import Options
from fastio.reading.reader import Reader
from fastio.saving import hdf5_file
from fastio.saving.durability import is_durable
from fastio.saving.save import save
from fastio.saving.target import file_target

_MODES = ("r", "r+", "a", "w", "w-", "x")


class File(Group):
    """A file of groups, datasets and attributes, as ``h5py.File`` has it.

    Datasets of a file that is read are read as far as they are indexed, and verified if the file is
    sealed. A file that is written takes its place whole and durably when it is closed, sealed if it
    is no HDF5 file. If the ``with`` block raises, nothing changes.

    Parameters
    ----------
    path : path
        A file of any format that `fastio.load` takes, to be read. One that ends in ``.h5``,
        ``.hdf5`` or ``.hdf`` is written as HDF5, any other one as safetensors.
    mode : {"r", "r+", "a", "w", "w-", "x"}
        Read; change; change or make; make, in place of one that may be there; make where there is
        none. To change a file means to read all of it first, and to write all of it at the end: so
        only safetensors files can be changed.
    options : Options, optional

    Raises
    ------
    FileExistsError
        For ``w-`` and ``x``, if something is there.
    FileNotFoundError, FormatError, ReadError
        As `fastio.open` does.
        `FormatError` also to change a file of another format.
    ImportError
        There is no h5py, which HDF5 needs.
    ValueError
        Another mode.

    Examples
    --------
    >>> with fastio.File("data.safetensors", "w") as file:
    ...     data = file.create_dataset("data", data=np.arange(6).reshape(2, 3))
    ...     data.attrs["unit"] = "m"
    >>> with fastio.File("data.safetensors") as file:
    ...     file["data"][1, :2], file["data"].attrs["unit"]
    (array([3, 4]), 'm')
    """

    def __init__(self, path: AnyPath, mode: str = "r", *, options: Options | None = None) -> None:
        if mode not in _MODES:
            raise ValueError(f"mode={shown(mode)}: expected one of {', '.join(_MODES)}")
        self._options = options
        target = Path(os.fsdecode(path)) if mode == "r" else file_target(path).path
        is_there = os.path.lexists(target)
        if mode in ("w-", "x") and is_there:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
        if mode != "r" and is_hdf5(target):
            library()  # rather now than at the end
        if mode == "r+" or (mode == "a" and is_there):
            _require_safetensors(target)
        reader = None
        if mode in ("r", "r+") or (mode == "a" and is_there):
            reader = Reader(partial(locate_again, path), options=options)
        content = Content(target, "r" if mode == "r" else "r+", reader)
        if mode != "r":
            content.keep_all()
        super().__init__(content, "")

    @property
    def filename(self) -> str:
        """Its path."""
        return self._content.filename

    @property
    def mode(self) -> str:
        """``r``, or ``r+`` if it can be changed."""
        return self._content.mode

    def flush(self) -> None:
        """Save what is written so far; the file stays open.

        Raises
        ------
        MemoryError, WriteError
            As `fastio.save` does.

        Examples
        --------
        >>> file = fastio.File("run.safetensors", "w")
        >>> file["step"] = 1
        >>> file.flush()
        >>> int(fastio.load("run.safetensors")["step"])
        1
        """
        content = self._content
        content.require_open()
        if content.mode == "r":
            return
        beside = content.annotations
        beside.groups = content.empty_groups()
        if is_hdf5(content.target):
            hdf5_file.write(content.target, content.arrays, beside, durable=is_durable(None))
        else:
            metadata = beside.metadata()
            save(content.arrays, content.target, metadata=metadata, options=self._options)

    def close(self) -> None:
        """Save what was written, and let go of the file.

        Raises
        ------
        MemoryError, WriteError
            As `fastio.save` does. The file is not closed then.

        Examples
        --------
        >>> fastio.File("model.safetensors").close()
        """
        if self._content.is_open:
            self.flush()
            self._content.close()

    def __enter__(self) -> File:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._content.close()

    def __bool__(self) -> bool:
        return self._content.is_open

    def __repr__(self) -> str:
        if "_content" not in vars(self):
            return "<fastio.File: not open>"
        state = f"mode {self.mode}" if self else "closed"
        return f"<fastio.File {shown(self.filename)}: {state}>"


def _require_safetensors(path: Path) -> None:
    """Refuse to change a file that may have more than is written anew."""
    known.require_safetensors(open_file(path))
