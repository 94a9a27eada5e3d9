"""One root of a store: a folder on some device, and the small files in it.

Everything is opened below a descriptor of the root and no symlink is followed there, so that what a
manifest names stays inside. A file gets its name when it is whole and on the disk, and stays so.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from fastio import folders
from fastio.anchored import anchored
from fastio.errors import ConflictError, FormatError, ReadError, WriteError
from fastio.filesystem.durability import sync_folder
from fastio.filesystem.leftovers import remove_leftovers
from fastio.replacement import Replacement
from fastio.store import IDENTITY
from fastio.store.documents import DOCUMENT_BYTES_MAX, Promise, Record, RootIdentity
from fastio.store.files import FOLDER, called, folder_mode, make_folder, read, write_called
from fastio.store.manifest import MANIFEST_BYTES_MAX, Named, decode

SHARDS, MANIFESTS, COMMITS = "shards", "manifests", "commits"
_FOLDERS = (SHARDS, MANIFESTS, COMMITS)
_PROMISE = "promise"
VERIFIED = "verified"
# What a fresh filesystem has; and what a creation that did not end leaves.
_NOTHING = {"lost+found", IDENTITY, _PROMISE, VERIFIED, "lock", *_FOLDERS}
_GENERATION = re.compile(r"[0-9a-f]{16}")
FILE_MODE = 0o600
"""Of new files, unless the user says otherwise; folders may be searched by whoever may read."""


class Root:
    """A root that could be opened; `open` and `create` make them.

    Attributes
    ----------
    path : pathlib.Path
        Absolute.
    identity : RootIdentity
    problems : list of str
        What was found to be damaged in it, as messages.
    damaged : set of int
        Generations of which it has a record that cannot be read.
    """

    def __init__(self, path: Path, folder: int, identity: RootIdentity) -> None:
        self.path = path
        self.identity = identity
        self.problems: list[str] = []
        self.damaged: set[int] = set()
        self._folder = folder

    @classmethod
    def open(cls, path: Path) -> Root:
        """Open a root.

        Raises
        ------
        FileNotFoundError
            If there is no such folder, or it is no root: a disk that is not mounted, perhaps.
        FormatError
            If the file that says who it is is damaged.
        ReadError
            If it cannot be read.
        """
        path = Path(anchored(str(path)))
        folder = called(path, "open", lambda: os.open(path, FOLDER))
        try:
            data = read(folder, IDENTITY, path / IDENTITY, DOCUMENT_BYTES_MAX)
            return cls(path, folder, RootIdentity.decode(data, str(path / IDENTITY)))
        except BaseException:
            os.close(folder)
            raise

    @classmethod
    def create(cls, path: Path, identity: RootIdentity, mode: int = FILE_MODE) -> Root:
        """Make a root of a folder that is not there, or has nothing in it.

        Raises
        ------
        WriteError
            If that fails, or there is something in the folder.
        """
        path = Path(anchored(str(path)))
        cls.check_free(path)
        folders.make(folders.missing(path.parent, blamed=path), durable=True, blamed=path)
        made, *_ = [make_folder(path / name, folder_mode(mode)) for name in ("", *_FOLDERS)]
        folder = write_called(path, "open", lambda: os.open(path, FOLDER))
        root = cls(path, folder, identity)
        try:
            root.put("", IDENTITY, identity.encode(), mode=mode, replace=True)
            if made:
                sync_folder(path.parent, blamed=path)
        except BaseException:
            root.close()
            raise
        return root

    @staticmethod
    def check_free(path: Path) -> None:
        """Refuse a folder that no root can be made of.

        Raises
        ------
        WriteError
            If there is something in it, or something else than a folder is there or above.
        """
        if path.exists() and _has_content(path):
            detail = "there is something in it; a root is made of an empty folder"
            raise WriteError(errno.ENOTEMPTY, "mkdir", path, detail=detail)
        folders.missing(path.parent, blamed=path)

    @property
    def uuid(self) -> str:
        """Its own."""
        return self.identity.root

    def is_in_its_place(self) -> bool:
        """Return whether its path still leads to it."""
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self._folder))
        except OSError:
            return False

    def close(self) -> None:
        """Close its descriptor."""
        folder, self._folder = self._folder, -1
        if folder >= 0:
            os.close(folder)

    def __del__(self) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a root cannot be pickled or copied")

    def __repr__(self) -> str:
        return f"<Root {self.path}>"

    # ---- what is in it

    def records(self) -> dict[int, Record]:
        """Return its sound commit records by generation; damaged ones are noted as problems.

        Raises
        ------
        ReadError
            If the folder cannot be read.
        """
        found = {}
        self.damaged = set()
        for name in self.names(COMMITS):
            if not _GENERATION.fullmatch(name):
                continue
            path = self.path / COMMITS / name
            try:
                record = Record.decode(self.read(COMMITS, name, DOCUMENT_BYTES_MAX), str(path))
                if record.generation != int(name, 16) or record.store != self.identity.store:
                    raise FormatError(
                        str(path),
                        f"is of generation {record.generation} of the store {record.store}",
                        expected=f"{int(name, 16)} of {self.identity.store}",
                    )
                found[record.generation] = record
            except FileNotFoundError:
                continue  # collected meanwhile
            except (FormatError, ReadError) as error:
                self.damaged.add(int(name, 16))
                self.note(str(error))
        return found

    def manifest(self, digest: str) -> Named:
        """Return a manifest.

        Raises
        ------
        FileNotFoundError, ReadError, FormatError
        """
        name = f"{digest}.json"
        data = self.read(MANIFESTS, name, MANIFEST_BYTES_MAX)
        return decode(data, digest, str(self.path / MANIFESTS / name))

    def promised(self) -> int:
        """Return the highest ballot that somebody has promised here; 0 where none is known.

        Raises
        ------
        FormatError, ReadError
            If the file is damaged, or cannot be read.
        """
        path = self.path / _PROMISE
        try:
            promise = Promise.decode(self.read("", _PROMISE, DOCUMENT_BYTES_MAX), str(path))
        except FileNotFoundError:
            return 0
        return promise.ballot

    def names(self, sub: str) -> list[str]:
        """Return what is in one of its folders, sorted.

        Raises
        ------
        ReadError
        """
        with self._sub(sub) as folder:
            return sorted(called(self.path / sub, "listdir", lambda: os.listdir(folder)))

    def read(self, sub: str, name: str, nbytes_max: int) -> bytes:
        """Return a file.

        Raises
        ------
        FileNotFoundError
        FormatError
            If it is longer.
        ReadError
        """
        with self._sub(sub) as folder:
            return read(folder, name, self.path / sub / name, nbytes_max)

    def size(self, sub: str, name: str) -> int:
        """Return the bytes of a file.

        Raises
        ------
        FileNotFoundError, ReadError
        """
        path = self.path / sub / name
        with self._sub(sub) as folder:
            status = called(
                path, "stat", lambda: os.stat(name, dir_fd=folder, follow_symlinks=False)
            )
        if not stat.S_ISREG(status.st_mode):
            raise ReadError(errno.EINVAL, "stat", path, detail="it is no regular file")
        return status.st_size

    @contextlib.contextmanager
    def sub(self, sub: str) -> Iterator[int]:
        """A descriptor of one of its folders.

        Raises
        ------
        ReadError
        """
        with self._sub(sub) as folder:
            yield folder

    def space(self) -> tuple[int, int]:
        """Return bytes that are free for whoever may write here, and bytes in all.

        Raises
        ------
        ReadError
        """
        status = called(self.path, "statvfs", lambda: os.fstatvfs(self._folder))
        return status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize

    def note(self, problem: str) -> None:
        """Remember what is wrong with it, once."""
        if problem not in self.problems:
            self.problems.append(problem)

    # ---- what is put there

    def put(
        self, sub: str, name: str, data: bytes, *, mode: int = FILE_MODE, replace: bool = False
    ) -> None:
        """Write a file and bring it, and then its name, to the disk.

        Raises
        ------
        ConflictError
            If there is one already, and it is not to be replaced.
        WriteError
        """
        path = self.path / sub / name
        with self._sub(sub):  # a symlink in place of the folder is met here
            pass
        replacement = Replacement(path, FILE_MODE, written_as=self.path / sub / "new")
        try:
            replacement.reserve(len(data))
            if not replacement.renames:
                detail = "a store replaces files, and this filesystem cannot rename"
                raise WriteError(errno.ENOSYS, "rename", path, detail=detail)
            replacement.begin()
            replacement.file.write(0, data)
            replacement.allow(mode)
            replacement.settle()
            if replace:
                replacement.link()
                replacement.rename()
            elif not replacement.claim():
                raise ConflictError(path, "is there already")
            replacement.sync_name()
        finally:
            replacement.discard()

    def put_record(self, record: Record, *, mode: int = FILE_MODE) -> None:
        """Write a commit record; one of a lower ballot, or a damaged one, gives way to it.

        Raises
        ------
        ConflictError
            If there is one with a ballot as high.
        WriteError, ReadError
        """
        name = f"{record.generation:016x}"
        try:
            self.put(COMMITS, name, record.encode(), mode=mode)
        except ConflictError:
            other = self.records().get(record.generation)
            if other is not None and other.ballot >= record.ballot:
                raise
            self.put(COMMITS, name, record.encode(), mode=mode, replace=True)

    def put_manifest(self, named: Named, *, mode: int = FILE_MODE) -> None:
        """Write a manifest, unless it is there and whole.

        Raises
        ------
        WriteError, ReadError
        """
        with contextlib.suppress(FileNotFoundError, FormatError, ReadError):
            self.manifest(named.digest)
            return
        self.put(MANIFESTS, f"{named.digest}.json", named.data, mode=mode, replace=True)

    def put_promise(self, ballot: int, *, mode: int = FILE_MODE) -> None:
        """Promise that nobody who comes later takes this ballot or a lower one.

        Raises
        ------
        WriteError
        """
        promise = Promise(self.identity.store, self.uuid, ballot)
        self.put("", _PROMISE, promise.encode(), mode=mode, replace=True)

    def remove(self, sub: str, name: str) -> None:
        """Remove a file, if it is there.

        Raises
        ------
        WriteError
        """
        path = self.path / sub / name
        with self._sub(sub) as folder, contextlib.suppress(FileNotFoundError):
            write_called(path, "unlink", lambda: os.unlink(name, dir_fd=folder))

    def sync(self, sub: str) -> None:
        """Bring the names in one of its folders to the disk.

        Raises
        ------
        WriteError
        """
        sync_folder(self.path / sub, blamed=self.path / sub)

    def remove_leftovers(self) -> None:
        """Remove the temporary files of whoever was killed while he wrote.

        Raises
        ------
        Nothing: what cannot be removed stays.
        """
        for sub in ("", SHARDS, MANIFESTS, COMMITS):
            remove_leftovers(self.path / sub / "new")

    @contextlib.contextmanager
    def _sub(self, sub: str) -> Iterator[int]:
        if not sub:
            yield self._folder
            return
        path = self.path / sub
        flags = FOLDER | os.O_NOFOLLOW
        try:
            folder = os.open(sub, flags, dir_fd=self._folder)
        except OSError as error:
            raise ReadError(error.errno or errno.EIO, "open", path) from error
        try:
            yield folder
        finally:
            os.close(folder)


def _has_content(path: Path) -> bool:
    names = _names_in(path)
    return not names <= _NOTHING or any(_names_in(path / name) for name in names & {*_FOLDERS})


def _names_in(folder: Path) -> set[str]:
    return set(write_called(folder, "listdir", lambda: os.listdir(folder)))
