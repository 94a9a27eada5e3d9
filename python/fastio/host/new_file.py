"""A new file while it is written; nothing is left of it unless it takes its place.

With O_TMPFILE it has no name, and vanishes when the process is killed. Other filesystems give it a
temporary name. On a filesystem without rename, a new file has its own name from the start.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import fastio._native as _native
from fastio.errors import WriteError
from fastio.host import inheritance, threads, trial
from fastio.host.descriptors import limit
from fastio.host.durability import sync_file
from fastio.host.leftovers import lock, temporary_path, unlock
from fastio.host.refusals import advice, is_refusal, named, note

_Result = TypeVar("_Result")

_COPIED_BYTES = 2**24  # in one go
_OPENED_AGAIN_MAX = 8
_REMOVALS_MAX, _REMOVED_AGAIN_AFTER_S = 20, 0.005
# How long the end of a file may take that is given up. The user who pressed Ctrl-C shall not notice
# it.
_PATIENCE_S, _INTERRUPTED_PATIENCE_S = 2.0, 0.03

_cannot_link: set[int] = set()
"""Disks on which a file without a name can be made, and does not get one."""


class NewFile:
    """The file, opened at once and empty.

    Parameters
    ----------
    path : pathlib.Path
    mode : int
        Who may look at it meanwhile, less the umask; and later, unless it imitates another one.
    written_as : pathlib.Path, optional
        What the temporary name is made of, by which leftovers are found; default: `path`.

    Attributes
    ----------
    path : pathlib.Path
        The name that it will have.
    temporary : pathlib.Path
        The name that it has for a moment, or all the while where files must have one.
    file : _native.TargetFile
        What is written; `begin` may make it another one.
    renames : bool
        Whether the filesystem can rename. Where it cannot, `begin` gives the file its own name.
    abilities : trial.Abilities
    shortfalls : list of str
        What could not be had from the filesystem, for a report.

    Raises
    ------
    WriteError
        If it cannot be made.
    """

    def __init__(self, path: Path, mode: int = 0o600, *, written_as: Path | None = None) -> None:
        self.path = path
        self.renames = True
        self.abilities = trial.Abilities()
        self.shortfalls: list[str] = []
        self._mode = mode
        self._written_as = written_as or path
        self.temporary = temporary_path(self.path, self._written_as)
        self._at_once = self._synced = self._committed = False
        self._fd, self._named = self._open()
        self.file = self._adopt()

    def name_as(self, name: str) -> None:
        """Have it get another name in its folder than was said at first."""
        self.path = self.path.with_name(name)

    def _open(self) -> tuple[int, bool]:
        """A descriptor, and whether the file has its temporary name already."""
        folder = self.path.parent
        try:
            if _cannot_link and os.stat(folder).st_dev in _cannot_link:
                return self._open_named()
            fd = os.open(folder, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, self._mode)
        except OSError:
            pass  # not on this filesystem; or for a reason that is met below, too
        else:
            if os.path.exists(own_descriptor(fd)):
                lock(fd)
                return fd, False
            os.close(fd)  # no /proc: it could not be given a name
        return self._open_named()

    def _open_named(self) -> tuple[int, bool]:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        for _ in range(_OPENED_AGAIN_MAX):
            name = temporary_path(self.path, self._written_as)
            fd = self._call("open", lambda: os.open(name, flags, self._mode))  # noqa: B023
            locked = lock(fd)
            # Without locks nobody takes it for a leftover; nor is st_nlink true everywhere.
            if locked is None or (locked and os.path.lexists(name)):
                self.temporary = name
                return fd, True
            os.close(fd)  # taken for a leftover before it was locked
        detail = "another process removes its temporary files"
        raise WriteError(errno.EAGAIN, "open", self.path, detail=detail)

    def _adopt(self) -> _native.TargetFile:
        try:
            reopened_as = self.temporary if self._named else own_descriptor(self._fd)
            return _native.TargetFile(self._fd, self.path, reopened_as)
        except BaseException:
            self.close()
            raise

    # ---- how it can be written

    @property
    def readable_path(self) -> str:
        """A path that leads to the file while it is written, for a library that opens one."""
        return str(self.temporary) if self._named else own_descriptor(self._fd)

    @property
    def is_at_its_place(self) -> bool:
        """Whether it is written under its own name, once it was reserved."""
        return not self.renames

    def reserve(self, nbytes: int, padded_nbytes: int = 0) -> None:
        """Have space set aside; where there is no such thing, find out how the file can be written.

        Parameters
        ----------
        nbytes : int
            That the file will have.
        padded_nbytes : int
            That it may have before it is cut, if that is more.

        Raises
        ------
        WriteError
            If there is not enough space.
        """
        found = trial.reserve(self.file, nbytes, max(nbytes, padded_nbytes))
        self.abilities = found
        if self._named and not found.set_aside:
            self.renames, self.temporary = trial.can_rename(
                self.temporary, temporary_path(self.path, self._written_as)
            )
        if found.in_order:
            self._note(found.in_order, "the file is written in order, after its checksums are made")

    def begin(self, told: Callable[[_native.TargetFile], object] = lambda file: None) -> None:
        """Make the file anew, where `reserve` found that it must be, or needs its own name at once.

        Parameters
        ----------
        told : callable
            Given the file that is to be written then, before the other one is removed.

        Raises
        ------
        WriteError
            If that fails; or something has its name, and the filesystem cannot rename.
        """
        if self.renames and not self.abilities.in_order:
            return
        before = self._fd, self.temporary if self._named else None
        if self.renames:
            self._open_other()
        else:
            self._open_at_once()
        self.file = self._adopt()
        told(self.file)
        if self.abilities.in_order:
            trial.abandon(before[0])
        _close_and_remove(*before)

    def _open_other(self) -> None:
        """Have the file under a temporary name."""
        self._fd, self._named = self._open_named()

    def _open_at_once(self) -> None:
        """Have the file under its own name, though it is not whole."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            self._fd = os.open(self.path, flags, self._mode)
        except FileExistsError as error:
            cannot = OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
            raise failed(self.path, cannot, "rename") from error
        except OSError as error:
            raise failed(self.path, error, "open") from error
        self.temporary, self._named, self._at_once = self.path, True, True
        lock(self._fd)  # nobody writes into it meanwhile
        self._note("rename is refused here", "a new file has its name before it is whole")

    def _go_on_named(self, refusal: OSError) -> None:
        """Have what was written in a file with a temporary name, as this one gets none."""
        _cannot_link.add(os.fstat(self._fd).st_dev)
        cause = f"a file without a name gets none here ({named(refusal)})"
        self._copy(cause, self._open_other)

    def cut(self, nbytes: int) -> None:
        """Make the file end after so many bytes.

        Raises
        ------
        WriteError
            If that fails.
        """
        if not self.abilities.cut:
            return  # nothing was written behind its end
        try:
            self.file.truncate(nbytes)
        except WriteError as error:
            if not is_refusal(error):
                raise
            # The space set aside goes up to a whole page.
            self._copy(f"ftruncate is refused here ({named(error)})", self._open_other, nbytes)

    def _copy(self, cause: str, open_other: Callable[[], None], nbytes: int | None = None) -> None:
        """Go on in another file that has what was written to this one, up to `nbytes`."""
        before, name = self._fd, self.temporary if self._named else None
        status, acl = os.fstat(before), inheritance.access_list(before)
        end = status.st_size if nbytes is None else nbytes
        readable = name or own_descriptor(before)
        source = self._call("open", lambda: os.open(readable, os.O_RDONLY | os.O_CLOEXEC))
        try:
            open_other()
            self.file = self._adopt()
            for offset in range(0, end, _COPIED_BYTES):
                length = min(_COPIED_BYTES, end - offset)
                part = self._call("read", lambda: os.pread(source, length, offset))  # noqa: B023
                self.file.write(offset, part)
            inheritance.inherit(self._fd, self.path, status, acl, self._note)
            if self._synced:
                self.settle()
        finally:
            os.close(source)
            if self._fd != before:
                _close_and_remove(before, name)
        self._note(cause, "the file was written a second time")

    def settle(self, *, durable: bool = True) -> None:
        """Bring the file to the disk, if it shall be `durable`; nothing is written any more.

        Raises
        ------
        WriteError
            If that fails.
        """
        unasked = None
        if durable:
            unasked = sync_file(self.file)
            self._synced = True
            self._add(unasked)
        if unasked is not None or self.abilities.in_order:
            trial.close_heard(self._fd, self.path)

    # ---- how it ends

    def close(self) -> None:
        """Close the file; unless it was committed, nothing is left of it."""
        # A kept error keeps this object, but neither its descriptors nor its space on the disk.
        error = sys.exc_info()[1]
        if error is not None:
            traceback.clear_frames(error.__traceback__)
        self.stop_writing()
        if self._committed and not self._named:  # there is nothing left that a disk could hold up
            self._end()
            return
        # A disk that hangs may hold this up, too; an interrupt and an error are not to wait for it.
        try:
            ending = threads.start(self._end, f"fastio close {self.path.name}", daemon=True)
        except threads.NoThreadError:
            self._end()
        else:
            interrupted = error is not None and not isinstance(error, Exception)
            ending.join(_INTERRUPTED_PATIENCE_S if interrupted else _PATIENCE_S)

    def _end(self) -> None:
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        if self.abilities.in_order and not self._committed:
            trial.abandon(fd)
        # Committed, it has its own name now; what cannot be removed is the next one's leftover.
        _close_and_remove(fd, self.temporary if self._named else None)

    def stop_writing(self) -> None:
        """Have no descriptors but the one that it gets its name by: nothing more is written."""
        vars(self).pop("file", None)

    def keep_as_leftover(self) -> None:
        """Leave what has the temporary name to be found among the leftovers."""
        self._named = False

    def _note(self, cause: str, remedy: str) -> None:
        self._add(note(self.path, cause, remedy))

    def _add(self, shortfall: str | None) -> None:
        if shortfall is not None and shortfall not in self.shortfalls:
            self.shortfalls.append(shortfall)

    def _call(self, operation: str, call: Callable[[], _Result]) -> _Result:
        try:
            return call()
        except WriteError:
            raise  # of a save by a signal handler
        except OSError as error:
            raise failed(self.path, error, operation) from error


def failed(path: Path, error: OSError, operation: str) -> WriteError:
    """Return the error of a system call that failed on the way to a file.

    Raises
    ------
    Nothing.
    """
    detail = advice(error, path) if operation in ("open", "rename") else None
    if error.errno == errno.EMFILE:
        detail = limit()
    return WriteError(error.errno or errno.EIO, operation, path, detail=detail)


def _close_and_remove(fd: int, name: Path | None) -> None:
    again = name is not None and _is_in_the_way(name)
    unlock(fd)  # a child made by fork has the file as well, and with it the lock
    with contextlib.suppress(OSError):
        os.close(fd)
    # FUSE hears of a close after it returned.
    for _ in range(_REMOVALS_MAX):
        if not again or name is None:
            return
        time.sleep(_REMOVED_AGAIN_AFTER_S)
        again = _is_in_the_way(name)


def _is_in_the_way(name: Path) -> bool:
    """Remove a file; whether that has failed. It may work once it is closed: FUSE renames an open
    file, and some filesystems refuse.
    """
    try:
        os.unlink(name)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def own_descriptor(fd: int) -> str:
    """Return a path that leads to an open file, also to one without a name."""
    return f"/proc/self/fd/{fd}"
