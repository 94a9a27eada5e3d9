"""A file that is written where it lies, under its name: as `Options.in_place` has it.

It stays the same file, with its owner, mode, access list, hard links and mounts; a symlink is
followed. The old content is lost from the first byte on. A crash leaves zeros in place of the
header, and such a file is refused.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import fastio._native as _native
from fastio.errors import WriteError
from fastio.host import trial
from fastio.host.durability import sync_file
from fastio.host.flocks import Flock
from fastio.host.refusals import is_refusal
from fastio.host.replacement import Replacement
from fastio.report.events import Event, emit

_BLOCK_BYTES = 512  # of st_blocks
_MAPS = "/proc/self/maps"


def is_there(path: Path) -> bool:
    """Return whether there is a file to write into."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False


class InPlace(Replacement):
    """The file that is there; opened at once, and left alone until `begin`.

    Parameters and attributes are those of `Replacement`.
    """

    _nbytes = 0
    _begun = False
    _flock: Flock | None = None

    def _open(self) -> tuple[int, bool]:
        return self._call("open", lambda: os.open(self.path, os.O_PATH | os.O_CLOEXEC)), False

    @property
    def is_at_its_place(self) -> bool:
        """It is."""
        return True

    def reserve(self, nbytes: int, padded_nbytes: int = 0) -> None:
        """See that the file can be written; nothing changes yet.

        Raises
        ------
        WriteError
            If it may not be written to, there is not enough space, or this process has it mapped.
        """
        self._nbytes, self._padded_nbytes = nbytes, max(nbytes, padded_nbytes)
        if not os.access(self.path, os.W_OK, effective_ids=True):
            raise WriteError(errno.EACCES, "open", self.path)
        status = os.fstat(self._fd)
        if _is_mapped(self.path, status):
            detail = (
                "this process has the file mapped, as a load of a warm file does, and those "
                "tensors would change; load them with Options(mapping='never')"
            )
            raise WriteError(errno.EBUSY, "open", self.path, detail=detail)
        space = os.statvfs(self.path)
        free = space.f_bavail * space.f_frsize + status.st_blocks * _BLOCK_BYTES
        if space.f_blocks and nbytes > free:
            detail = f"{nbytes} bytes are needed, {free} are free"
            raise WriteError(errno.ENOSPC, "reserve", self.path, detail=detail)

    def begin(self, told: Callable[[_native.TargetFile], object] = lambda file: None) -> None:
        """Make the file empty: what it held is lost.

        Parameters
        ----------
        told : callable
            Given the file that is to be written then.

        Raises
        ------
        WriteError
            Also if another save is writing into the file.
        """
        self._lock()
        self._empty()
        cut = self._can_be_cut()
        padded_nbytes = self._padded_nbytes if cut else self._nbytes
        self.abilities = trial.reserve(self.file, self._nbytes, padded_nbytes)
        self.abilities.cut = self.abilities.cut and cut
        if self.abilities.in_order:
            self._note(
                self.abilities.in_order,
                "the file is written in order, after its checksums are made",
            )
            self._empty()
        told(self.file)

    def _lock(self) -> None:
        """Two that write into one file, by whatever names, would leave parts of both."""
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            self._flock = Flock(os.open(self.path, flags))
            is_locked = self._flock.take()
        except OSError:
            return  # it may be written and not be read; or the filesystem has no locks
        if not is_locked:
            detail = "the file is locked: another save is writing into it"
            raise WriteError(errno.EBUSY, "open", self.path, detail=detail)

    def _can_be_cut(self) -> bool:
        """Unlike a new file, this one cannot be written again where that is met at the end."""
        try:
            self.file.truncate(0)
        except WriteError as error:
            if not is_refusal(error):
                raise
            return False
        return True

    def _empty(self) -> None:
        # Some filesystems allow one writer of a file at a time.
        self.stop_writing()
        os.close(self._fd)
        self._fd = -1
        flags = os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC
        self._fd = self._call("open", lambda: os.open(self.path, flags))
        self._begun = True
        self.file = self._adopt()

    def imitate(self, status: os.stat_result, like: Path | None = None) -> None:
        """Do nothing: the file has its owner, mode and access list."""

    def allow(self, mode: int) -> None:
        """Do nothing: the file has its mode."""

    def settle_data(self, *, durable: bool) -> None:
        """Have the data on the disk before the header, which says that it is there."""
        if durable:
            self._add(sync_file(self.file))

    def settle(self, *, durable: bool = True) -> None:
        """Bring the file to the disk, if it shall be `durable`; nothing is written any more.

        Raises
        ------
        WriteError
            If that fails, or the file has not the length that it should.
        """
        super().settle(durable=durable)
        found = os.fstat(self._fd).st_size
        if found != self._nbytes:
            detail = f"it has {found} bytes; expected {self._nbytes}"
            raise WriteError(errno.EIO, "fstat", self.path, detail=detail)

    def link(self) -> None:
        """Do nothing: the file has its name."""

    def rename(self) -> None:
        """Say that the file is whole."""
        self._committed = True

    def sync_name(self) -> None:
        """Do nothing: the name is on the disk."""

    def close(self) -> None:
        """Close the file; one that was begun and is not whole stays, and is told."""
        if self._begun and not self._committed:
            cause = "it was written in place, and is not whole"
            emit(Event("failure", str(self.path), cause, "what it held before is lost"))
        super().close()

    def _end(self) -> None:
        super()._end()
        if self._flock is not None:
            self._flock.close()


def _is_mapped(path: Path, status: os.stat_result) -> bool:
    """Whether this process has the file mapped; False where that cannot be asked."""
    inode, name = str(status.st_ino), os.path.realpath(path)
    try:
        with open(_MAPS, encoding="utf-8", errors="surrogateescape") as maps:
            lines = [line.split(maxsplit=5) for line in maps]
    except OSError:
        return False
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    # An overlay says another device in stat than in maps.
    return any(
        len(line) == 6 and line[4] == inode and (line[3] == device or line[5].rstrip("\n") == name)
        for line in lines
    )
