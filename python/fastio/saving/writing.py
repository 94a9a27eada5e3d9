"""One file from its origins: laid out, written, and ready to take its place."""

from __future__ import annotations

import errno
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path, PurePath

import msgspec

import fastio._native as _native
from fastio.catalog.table import DEFAULT_ALGORITHM
from fastio.errors import WriteError
from fastio.formats import checksums, headers
from fastio.formats.checksums import START_ALIGNMENT
from fastio.host.in_place import InPlace, is_there
from fastio.host.replacement import Replacement
from fastio.options import Options
from fastio.saving import pace
from fastio.saving.origins import Origins
from fastio.saving.pace import Progress, WriteMode

_log = logging.getLogger("fastio")


class Layout(msgspec.Struct, frozen=True):
    """How a file will look: all but its bytes.

    Attributes
    ----------
    origins : Origins
    start : int
        Where the data begins, in bytes.
    header : checksums.HeaderPlan or bytes
        Bytes where no checksums are to come.
    """

    origins: Origins
    start: int
    header: checksums.HeaderPlan | bytes

    @property
    def nbytes(self) -> int:
        """Of the whole file."""
        return self.start + self.origins.data_bytes

    @property
    def chunk_bytes(self) -> int:
        """Bytes of data that get a checksum; 0: none do."""
        return 0 if isinstance(self.header, bytes) else self.header.chunk_bytes

    @property
    def algorithm(self) -> _native.Algorithm:
        """The algorithm of its checksums, if it has any."""
        return DEFAULT_ALGORITHM if isinstance(self.header, bytes) else self.header.algorithm


def lay_out(
    origins: Origins,
    path: PurePath,
    metadata: Mapping[str, str] | None,
    *,
    chunk_bytes: int | None,
    algorithm: _native.Algorithm = DEFAULT_ALGORITHM,
) -> Layout:
    """Lay out one file.

    Parameters
    ----------
    origins : Origins
    path : pathlib.PurePath
        For messages.
    metadata : mapping of str to str, optional
    chunk_bytes : int or None
        Bytes of data that get a checksum; None: none do.
    algorithm : _native.Algorithm
        What checksums are taken with.

    Raises
    ------
    FormatError
        If its header would be longer than the format allows.
    """
    entries = origins.entries()
    if chunk_bytes is None:
        users = None if metadata is None else dict(sorted(metadata.items()))
        plain = headers.plain_header(users, entries, str(path))
        return Layout(origins, len(plain), plain)
    plan = checksums.plan_header(
        metadata or {}, entries, origins.data_bytes, str(path), chunk_bytes, algorithm
    )
    return Layout(origins, plan.start, plan)


def open_file(
    path: Path, options: Options, *, written_as: Path, like: Path | None = None
) -> Replacement:
    """Open a new file, which takes over owner, mode and access list of another one.

    Parameters
    ----------
    path : pathlib.Path
        What it will be called.
    options : Options
    written_as : pathlib.Path
        What its temporary name is made of.
    like : pathlib.Path, optional
        The other file; default: `path`.

    Raises
    ------
    WriteError
        If the file cannot be made.
    """
    # A shard is written as another file: it gets a name that nothing has.
    if options.in_place and written_as == path and is_there(path):
        return InPlace(path)
    return Replacement.heir(path, like=like, written_as=written_as)


class Writer(ABC):
    """A file on its way, written when told to.

    Parameters
    ----------
    replacement : Replacement
        The file, open and empty; closed with this object.
    layout : Layout
    """

    _counted: _native.SaveStatistics

    def __init__(self, replacement: Replacement, layout: Layout) -> None:
        self.layout = layout
        self.replacement = replacement

    @property
    def statistics(self) -> _native.SaveStatistics:
        """The counts, once it is finished."""
        return self._counted

    def reserve(self) -> None:
        """Have space set aside, or find out how the file can be written without that.

        Raises
        ------
        WriteError
            If there is not enough of it.
        """
        whole = -(-self.layout.nbytes // START_ALIGNMENT) * START_ALIGNMENT
        self.replacement.reserve(self.layout.nbytes, whole)

    @abstractmethod
    def begin(self) -> None:
        """Make ready what is written to, as `reserve` found that it must be.

        Raises
        ------
        WriteError
        """

    @abstractmethod
    def write_data(self, *, durable: bool, progress: Progress) -> WriteMode:
        """Write what comes of the tensors, which are not looked at any more then.

        Raises
        ------
        WriteError, MemoryLimitError
        """

    @abstractmethod
    def header(self) -> bytes:
        """Return the file up to its data, once the checksums of that were taken."""

    def finish(self, *, durable: bool, mode: int | None = None) -> None:
        """Write the header, last, and bring all of it to the disk; it only lacks its name then.

        Parameters
        ----------
        durable : bool
        mode : int, optional
            Of the file; default: that of the one that it replaces, or what the umask leaves.

        Raises
        ------
        WriteError
        """
        if not self.replacement.abilities.in_order:
            self.replacement.cut(self.layout.nbytes)
            self.replacement.settle_data(durable=durable)
            self.replacement.file.write(0, self.header())
        if mode is not None:
            self.replacement.allow(mode)
        else:
            self.replacement.inherit()
        self.replacement.settle(durable=durable)
        self._count()
        self.replacement.stop_writing()

    def _count(self) -> None:
        """Have `statistics`: all is written."""
        return

    def close(self) -> None:
        """Close the file; unless it took its place, nothing is left of it."""
        self.replacement.close()


class FileWriter(Writer):
    """A file of tensors in memory.

    Parameters
    ----------
    replacement, layout
        As `Writer` takes them.
    options : Options

    Raises
    ------
    MemoryLimitError
        If the limit is below one block.
    """

    def __init__(self, replacement: Replacement, layout: Layout, options: Options) -> None:
        super().__init__(replacement, layout)
        self._options = options
        try:
            origins = layout.origins
            self._save = _native.Save(
                self.replacement.file,
                origins.addresses,
                origins.bounds(layout.start),
                origins.layouts,
                chunk_bytes=layout.chunk_bytes,
                algorithm=layout.algorithm,
                options=options,
                devices=origins.streams,
                on=origins.devices,
            )
        except BaseException:
            self.close()
            raise

    def take_snapshot(self) -> None:
        """Copy all tensors to memory of its own; they are not looked at any more.

        Raises
        ------
        MemoryLimitError, MemoryError
        """
        self._save.run("copied", 0, self._save.block_count)

    def begin(self) -> None:
        """Make ready what is written to, as `reserve` found that it must be.

        Raises
        ------
        WriteError
        """
        self.replacement.begin(self._save.write_to)

    def write_data(self, *, durable: bool, progress: Progress) -> WriteMode:
        """Write what comes of the tensors, which are not looked at any more then.

        Raises
        ------
        WriteError, MemoryLimitError
        """
        if self.replacement.abilities.in_order:
            return self._write_in_order(progress)
        if not self.replacement.abilities.cut:
            return pace.write_uncut(self._save, progress=progress)
        return pace.write_data(self._save, self._options, durable=durable, progress=progress)

    def _write_in_order(self, progress: Progress) -> WriteMode:
        """The header comes first, and so the checksums come before anything is written."""
        header = self.sum_up()
        self.replacement.file.write(0, header)
        mode = pace.write_in_order(
            self._save, self.replacement.abilities.in_order, progress=progress
        )
        if self.header() != header:
            detail = "a tensor changed while it was saved; the checksums before no longer hold"
            raise WriteError(errno.ESTALE, "write", self.replacement.path, detail=detail)
        return mode

    def sum_up(self) -> bytes:
        """Return the header that the file would have; nothing is written.

        Raises
        ------
        MemoryLimitError, MemoryError
        """
        if self._save.block_count:
            self._save.run("summed", 0, self._save.block_count)
        return self.header()

    def header(self) -> bytes:
        """Return the file up to its data, once the checksums of that were taken."""
        header = self.layout.header
        return header if isinstance(header, bytes) else header.encode(self._save.digests)

    def _count(self) -> None:
        self._counted = self._save.statistics
        if self._counted["bytes_rewritten"]:
            _log.warning(
                "%s: tensors changed while they were saved: the file is sound, but may hold some "
                "values from before a change and others from after it",
                self.replacement.path,
            )
        del self._save  # and with it two of three descriptors: there may be many shards

    def close(self) -> None:
        """Close the file; unless it took its place, nothing is left of it."""
        vars(self).pop("_save", None)  # an error that is kept keeps this object
        super().close()
