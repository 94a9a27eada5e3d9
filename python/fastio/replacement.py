"""A file that takes the place of another one whole and durably, or not at all.

It is written beside its place, reaches the disk, and only then gets its name: whoever looks at any
moment, also after a power cut, finds the old file or the new one. While it is written it has no
name, where the filesystem can do that (O_TMPFILE), so that nothing is left of it when the process
is killed; elsewhere, and for the moment before it takes its place, a temporary one. A lock tells
such a file from what a crash left behind.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from fastio import _native
from fastio.descriptors import limit
from fastio.errors import WriteError

_log = logging.getLogger("fastio")
_Result = TypeVar("_Result")

_NAME_BYTES_MAX = 255  # of one name in a folder, on every common filesystem
_SUFFIX = ".fastio-tmp"
# How long the end of a file may take that is given up. Whoever pressed Ctrl-C is not to notice it.
_PATIENCE_S, _INTERRUPTED_PATIENCE_S = 2.0, 0.03


class Replacement:
    """The new file while it is written; `replacing` makes one, and commits or removes it.

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
        What is written.
    """

    def __init__(self, path: Path, mode: int = 0o600, *, written_as: Path | None = None) -> None:
        self.path = path
        self._mode = mode
        stem = _temporary_stem((written_as or path).name)
        self.temporary = path.parent / f"{stem}{os.urandom(8).hex()}{_SUFFIX}"
        self._fd, self._named = self._open()
        try:
            reopened_as = self.temporary if self._named else _own_descriptor(self._fd)
            self.file = _native.TargetFile(self._fd, path, reopened_as)
        except BaseException:
            self.discard()
            raise

    def _open(self) -> tuple[int, bool]:
        """A descriptor, and whether the file has its temporary name already."""
        try:
            fd = os.open(self.path.parent, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, self._mode)
        except OSError:
            pass  # not on this filesystem; or for a reason that is met below, too
        else:
            if os.path.exists(_own_descriptor(fd)):
                _lock(fd)
                return fd, False
            os.close(fd)  # no /proc: it could not be given a name
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        while True:
            fd = self._call("open", lambda: os.open(self.temporary, flags, self._mode))
            if _lock(fd) is not False and os.fstat(fd).st_nlink:
                return fd, True
            os.close(fd)  # taken for a leftover before it was locked

    def imitate(self, status: os.stat_result) -> None:
        """Take over mode and owner of another file.

        An ordinary user may not give files away; the owner is then whoever writes, and a warning is
        logged.

        Raises
        ------
        WriteError
            If the mode cannot be set, or root cannot set the owner.
        """
        own = os.fstat(self._fd)
        if (own.st_uid, own.st_gid) != (status.st_uid, status.st_gid):
            try:
                os.fchown(self._fd, status.st_uid, status.st_gid)
            except PermissionError as error:
                if os.geteuid() == 0:
                    raise self._failed(error, "fchown") from error
                _log.warning(
                    "%s keeps the owner that writes it: only root can give it to %d:%d",
                    self.path,
                    status.st_uid,
                    status.st_gid,
                )
        self._call("fchmod", lambda: os.fchmod(self._fd, status.st_mode & 0o7777))

    def allow(self, mode: int) -> None:
        """Set who may do what with the file, whatever the umask is.

        Raises
        ------
        WriteError
        """
        self._call("fchmod", lambda: os.fchmod(self._fd, mode))

    def commit(self, *, durable: bool = True) -> None:
        """Bring the file to the disk, then give it its name; a symlink there is replaced.

        Parameters
        ----------
        durable : bool
            Without it nothing is waited for: after a power cut the file may be there and not whole.

        Raises
        ------
        WriteError
            If that fails. Only when the last step does (fsync of the folder) does the name stand
            for the new file already; it may then be the old one again after a power cut.
        """
        if durable:
            self.file.sync()
        self.link()
        self.rename()
        if durable:
            sync_folder(self.path.parent, blamed=self.path)

    def link(self) -> None:
        """Give the file its temporary name, as nothing but a rename replaces a name.

        Raises
        ------
        WriteError
            If that fails.
        """
        if self._named:
            return
        self._named = True
        with self._folder() as folder:
            # With a folder's descriptor Python calls linkat, which follows the link in /proc.
            own, name = _own_descriptor(self._fd), self.temporary.name
            self._call("link", lambda: os.link(own, name, dst_dir_fd=folder))

    def rename(self) -> None:
        """Let the file take its place.

        Raises
        ------
        WriteError
            If that fails.
        """
        self._call("rename", lambda: os.replace(self.temporary, self.path))

    def claim(self) -> bool:
        """Let the file take its place, unless something has it.

        Returns
        -------
        bool
            False where there is something; nothing has changed then.

        Raises
        ------
        WriteError
            If that fails otherwise.
        """
        with self._folder() as folder:
            own = self.temporary.name if self._named else _own_descriptor(self._fd)
            source = folder if self._named else None
            try:
                os.link(own, self.path.name, src_dir_fd=source, dst_dir_fd=folder)
            except FileExistsError:
                return False
            except OSError as error:
                raise self._failed(error, "link") from error
        return True

    def exchange(self) -> bool:
        """Let the file take its place, and the one that was there its temporary name, in one step.

        Returns
        -------
        bool
            False where there was none, or the filesystem cannot do that; nothing has changed then.

        Raises
        ------
        WriteError
            If that fails otherwise.
        """
        return _native.exchange(self.temporary, self.path)

    @contextlib.contextmanager
    def _folder(self) -> Iterator[int]:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        folder = self._call("open", lambda: os.open(self.path.parent, flags))
        try:
            yield folder
        finally:
            os.close(folder)

    def discard(self) -> None:
        """Close the file; unless it was committed, nothing is left of it."""
        # Who keeps an error keeps this object: not the descriptors, and not the space on the disk.
        self.let_go()
        # A disk that hangs may hold this up, too; an interrupt and an error are not to wait for it.
        ending = threading.Thread(target=self._end, daemon=True)
        try:
            ending.start()
        except RuntimeError:  # no thread to be had
            self._end()
        else:
            error = sys.exc_info()[1]
            interrupted = error is not None and not isinstance(error, Exception)
            ending.join(_INTERRUPTED_PATIENCE_S if interrupted else _PATIENCE_S)

    def _end(self) -> None:
        if self._named:
            # Committed, it has its own name now; what cannot be removed is the next one's leftover.
            with contextlib.suppress(OSError):
                os.unlink(self.temporary)
        os.close(self._fd)

    def let_go(self) -> None:
        """Have no descriptors but the one that it gets its name by: nothing more is written."""
        vars(self).pop("file", None)

    def leave(self) -> None:
        """Leave what has the temporary name to be found among the leftovers."""
        self._named = False

    def _call(self, operation: str, call: Callable[[], _Result]) -> _Result:
        try:
            return call()
        except OSError as error:
            raise self._failed(error, operation) from error

    def _failed(self, error: OSError, operation: str) -> WriteError:
        detail = limit() if error.errno == errno.EMFILE else None
        return WriteError(error.errno or errno.EIO, operation, self.path, detail=detail)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Replacement]:
    """Open a file that will be called `path`, and remove it again unless it was committed.

    Parameters
    ----------
    path : pathlib.Path
        Need not be there.

    Raises
    ------
    WriteError
        If it cannot be made.
    """
    replacement = Replacement(path)
    try:
        yield replacement
    finally:
        replacement.discard()


def status_of_file(path: Path) -> os.stat_result | None:
    """Return mode and owner of the file that is to be replaced; None for a symlink, or where none
    is.

    Raises
    ------
    WriteError
        If there is something else than a file.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise WriteError(error.errno or errno.EIO, "lstat", path) from error
    if stat.S_ISREG(status.st_mode):
        return status
    if stat.S_ISLNK(status.st_mode):
        return None
    kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
    kind = kinds.get(stat.S_IFMT(status.st_mode), "device")
    code = errno.EISDIR if kind == "folder" else errno.EEXIST
    detail = f"it is a {kind}; expected a file to replace, or nothing there"
    raise WriteError(code, "rename", path, detail=detail)


def sync_folder(folder: Path, *, blamed: Path) -> None:
    """Bring the names in a folder to the disk.

    Parameters
    ----------
    folder : pathlib.Path
    blamed : pathlib.Path
        The file that an error names.

    Raises
    ------
    WriteError
        If that fails.
    """
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise WriteError(error.errno or errno.EIO, "open", blamed) from error
    try:
        _native.TargetFile(fd, blamed, folder).sync()
    finally:
        os.close(fd)


@contextlib.contextmanager
def leftovers(path: Path) -> Iterator[list[Path]]:
    """The temporary files that crashed saves of `path` left behind, locked meanwhile.

    Raises
    ------
    Nothing; where a folder cannot be looked into, or a file not be locked, none are found.
    """
    written_as = re.compile(re.escape(_temporary_stem(path.name)) + "[0-9a-f]{16}" + _SUFFIX)
    try:
        names = [name for name in os.listdir(path.parent) if written_as.fullmatch(name)]
    except OSError:
        names = []
    with contextlib.ExitStack() as held:
        found = []
        for name in names:
            with contextlib.suppress(OSError):
                # A pipe of that name, or a lease on the file, is not waited for.
                flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                fd = os.open(path.parent / name, flags)
                held.callback(os.close, fd)
                if _lock(fd) and os.fstat(fd).st_nlink:
                    found.append(path.parent / name)
        yield found


def remove_leftovers(path: Path) -> None:
    """Remove what crashed saves of `path` left behind; what is being written is left alone.

    Raises
    ------
    Nothing: what cannot be removed stays.
    """
    with leftovers(path) as found:
        for leftover in found:
            with contextlib.suppress(OSError):
                os.unlink(leftover)
                _log.info("removed %s, which a save that did not end left behind", leftover)


def _temporary_stem(name: str) -> str:
    return f".{os.fsdecode(os.fsencode(name)[: _NAME_BYTES_MAX - 32])}."


def _lock(fd: int) -> bool | None:
    """Whether the file is locked by this descriptor now; None where locks cannot be had."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _own_descriptor(fd: int) -> str:
    return f"/proc/self/fd/{fd}"
