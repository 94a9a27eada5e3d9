"""A file that takes the place of another one whole and durably, or not at all.

It is written beside its place, reaches the disk, and only then gets its name: whoever looks at any
moment, also after a power cut, finds the old file or the new one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import fastio._native as _native
from fastio.errors import WriteError
from fastio.host import inheritance
from fastio.host.durability import sync_folder
from fastio.host.new_file import NewFile, failed, own_descriptor
from fastio.host.refusals import is_refusal, named


class Replacement(NewFile):
    """The new file and its place; `replacing` makes one, and commits or removes it.

    Parameters and attributes are those of `NewFile`.
    """

    _like: Path | None = None
    _heritage: tuple[os.stat_result, bytes | None] | None = None

    @classmethod
    def heir(
        cls, path: Path, *, like: Path | None = None, written_as: Path | None = None
    ) -> Replacement:
        """Open a file that can `inherit` from another one; until then it is as private as can be.

        Parameters
        ----------
        path : pathlib.Path
        like : pathlib.Path, optional
            The other file, which need not be there; default: `path`.
        written_as : pathlib.Path, optional

        Raises
        ------
        WriteError
            If it cannot be made; or if there is something else than a file.
        """
        like = like or path
        status = status_of_file(like)
        # Nobody else may look into the new file who could not look into the old one.
        made = cls(path, 0o666 if status is None else 0o600, written_as=written_as)
        made._like = like
        if status is not None:
            made._heritage = status, inheritance.access_list(like)
        return made

    def inherit(self) -> None:
        """Take over owner, group, mode and access list of the file that `heir` was told of.

        They are those of now. If the file is gone, they are those that it had then: another save
        may have removed it.

        Raises
        ------
        WriteError
            As `imitate` does.
        """
        if self._like is None:
            return
        status = status_of_file(self._like)
        if status is not None:
            self.imitate(status, self._like)
        elif self._heritage is not None:
            inheritance.inherit(self._fd, self.path, *self._heritage, self._note)

    def imitate(self, status: os.stat_result, like: Path | None = None) -> None:
        """Take over owner, group, mode and access control list of another file.

        A loss is told, and stands in `shortfalls`.

        Parameters
        ----------
        status : os.stat_result
            Of that file.
        like : pathlib.Path, optional
            Where it is; default: `path`.

        Raises
        ------
        WriteError
            If a call fails; or if the file would be open to users whom the other one kept out.
        """
        acl = inheritance.access_list(like or self.path)
        inheritance.inherit(self._fd, self.path, status, acl, self._note)

    def allow(self, mode: int) -> None:
        """Set who may do what with the file, whatever the umask is.

        Raises
        ------
        WriteError
            If that fails; where it cannot be had at all, that stands in `shortfalls`.
        """
        inheritance.allow(self._fd, self.path, mode, self._note)

    # ---- how it takes its place

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
        self.settle(durable=durable)
        self.link()
        self.rename()
        if durable:
            self.sync_name()

    def settle_data(self, *, durable: bool) -> None:
        """Do nothing: nobody looks at the file before all of it is on the disk."""

    def sync_name(self) -> None:
        """Bring the file's name to the disk.

        Raises
        ------
        WriteError
            If that fails. The name stands for the new file all the same.
        """
        self._add(sync_folder(self.path.parent, blamed=self.path))

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
            own, name = own_descriptor(self._fd), self.temporary.name
            try:
                os.link(own, name, dst_dir_fd=folder)
            except OSError as error:
                self._named = False
                if not _cannot_be_linked(error):
                    raise failed(self.path, error, "link") from error
                refusal = error
            else:
                return
        self._go_on_named(refusal)

    def rename(self) -> None:
        """Let the file take its place.

        Raises
        ------
        WriteError
            If that fails.
        """
        if self._at_once:
            self._keep()
            return
        try:
            os.replace(self.temporary, self.path)
        except OSError as error:
            if not is_refusal(error) or os.path.lexists(self.path):
                raise failed(self.path, error, "rename") from error
            if not self._link_to_its_name():
                self._copy(f"rename is refused here ({named(error)})", self._open_at_once)
                self._keep()
        else:
            self._named = False
        self._committed = True

    def _keep(self) -> None:
        """Leave the file under the name that it has had from the start."""
        self._named, self._committed = False, True

    def _link_to_its_name(self) -> bool:
        """A new file can have two names for a moment, and lose the temporary one at the end."""
        try:
            os.link(self.temporary, self.path, follow_symlinks=False)
        except OSError as error:
            if not _cannot_be_linked(error):
                raise failed(self.path, error, "link") from error
            return False
        return True

    def claim(self) -> bool:
        """Let the file take its place, unless something has it.

        If the filesystem has no hard links, the caller must hold a lock against others, as a store
        does.

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
            own = self.temporary.name if self._named else own_descriptor(self._fd)
            source = folder if self._named else None
            try:
                os.link(own, self.path.name, src_dir_fd=source, dst_dir_fd=folder)
            except FileExistsError:
                return False
            except OSError as error:
                if not _cannot_be_linked(error):
                    raise failed(self.path, error, "link") from error
                refusal = error
            else:
                return True
        if not self._named:
            self._go_on_named(refusal)
        if os.path.lexists(self.path):
            return False
        self.rename()
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
        try:
            return _native.exchange(self.temporary, self.path)
        except WriteError as error:
            if is_refusal(error):
                return False
            raise failed(self.path, error, "rename") from error

    @contextlib.contextmanager
    def _folder(self) -> Iterator[int]:
        # A folder that may be written to need not be readable.
        flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        folder = self._call("open", lambda: os.open(self.path.parent, flags))
        try:
            yield folder
        finally:
            os.close(folder)


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
        replacement.close()


def status_of_file(path: Path) -> os.stat_result | None:
    """Return mode and owner of the file that is to be replaced, of a symlink those of the file that
    it leads to; None where there is none.

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
        return _status_behind(path)
    kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
    kind = kinds.get(stat.S_IFMT(status.st_mode), "device")
    code = errno.EISDIR if kind == "folder" else errno.EEXIST
    detail = f"it is a {kind}; expected a file to replace, or nothing there"
    raise WriteError(code, "rename", path, detail=detail)


def _status_behind(link: Path) -> os.stat_result | None:
    try:
        status = os.stat(link)
    except OSError:
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def _cannot_be_linked(error: OSError) -> bool:
    """Whether it says that a file cannot have this name, though another one might."""
    return is_refusal(error) or error.errno in (errno.EXDEV, errno.ENOENT, errno.EMLINK)
