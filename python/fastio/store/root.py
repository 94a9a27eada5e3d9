"""One root of a store: a folder on some disk, and the small files in it."""

from __future__ import annotations

import contextlib
import math
import os
import re
import stat
from pathlib import Path

import fastio._native as _native
from fastio.arguments.anchored import anchored
from fastio.errors import ConflictError, FastioError, FormatError, ReadError
from fastio.host import folders
from fastio.host.durability import sync_folder
from fastio.host.leftovers import remove_leftovers
from fastio.store import IDENTITY, answering, layout, lineage
from fastio.store.answering import Answering, Call, asked, progress
from fastio.store.documents import DOCUMENT_BYTES_MAX, Promise, Record, RootIdentity
from fastio.store.files import FOLDER, called, folder_mode, make_folder, read, write_called
from fastio.store.layout import (
    COMMITS,
    FOLDERS,
    LOCK,
    MANIFESTS,
    PROMISE,
    SHARDS,
    manifest_name,
    record_name,
)
from fastio.store.manifest import MANIFEST_BYTES_MAX, EncodedManifest, decode
from fastio.store.root_files import FILE_MODE, RootFiles

_GENERATION = re.compile(r"[0-9a-f]{16}")


class Root(RootFiles):
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

    def __init__(
        self, path: Path, folder: int, identity: RootIdentity, answering: Answering
    ) -> None:
        super().__init__(path, folder, answering)
        self.identity = identity
        self.problems: list[str] = []
        self.damaged: set[int] = set()
        self._made: list[Path] = []

    @classmethod
    def open(cls, path: Path, timeout_s: float = math.inf) -> Root:
        """Open a root.

        Parameters
        ----------
        path : pathlib.Path
        timeout_s : float
            How long it may take to answer, here and later, as `Options.root_timeout_s`.

        Raises
        ------
        FileNotFoundError
            If there is no such folder, or it is no root: a disk that is not mounted, perhaps.
        FormatError
            If the file that says who it is is damaged.
        ReadError
            If it cannot be read, or does not answer.
        """
        return cls.begin_to_open(path, timeout_s).result()

    @classmethod
    def begin_to_open(cls, path: Path, timeout_s: float) -> Call[Root]:
        """Open a root, and do not wait for it.

        Raises
        ------
        Nothing: the result does, as `open`.
        """
        path = Path(anchored(str(path)))
        asks = answering.of(path, timeout_s)

        def opened() -> Root:
            folder = called(path, "open", lambda: os.open(path, FOLDER))
            try:
                data = read(folder, IDENTITY, path / IDENTITY, DOCUMENT_BYTES_MAX)
                identity = RootIdentity.decode(data, str(path / IDENTITY))
                return cls(path, folder, identity, asks)
            except BaseException:
                os.close(folder)
                asks.close()
                raise

        return asks.begin(opened)

    @classmethod
    def create(
        cls,
        path: Path,
        identity: RootIdentity,
        mode: int = FILE_MODE,
        timeout_s: float = math.inf,
    ) -> Root:
        """Make a root of a folder that is not there, or has nothing in it.

        Raises
        ------
        WriteError
            If that fails, or there is something in the folder.
        """
        root = cls.prepare(path, identity, mode, timeout_s)
        try:
            root.claim(mode)
        except BaseException:
            root.close()
            raise
        return root

    @classmethod
    def prepare(
        cls, path: Path, identity: RootIdentity, mode: int, timeout_s: float, *, free: bool = False
    ) -> Root:
        """Make the folders of a root; it is none until it is claimed.

        Raises
        ------
        WriteError
            If that fails, or there is something in the folder, unless that is known to be `free`.
        ReadError
            If it does not answer. Empty folders may be left there then.
        """
        path = Path(anchored(str(path)))
        asks = answering.of(path, timeout_s)
        try:
            return asks.ask(lambda: _prepared(path, identity, mode, asks, free=free))
        except BaseException:
            asks.close()
            raise

    @asked
    def claim(self, mode: int, *, free: bool = False) -> None:
        """Say who it is; what somebody else began to make of the folder is left alone.

        A caller that may meet another writer holds the root's lock.

        Raises
        ------
        WriteError
            If that fails, or somebody else has made a root of the folder meanwhile, unless it is
            known to be `free`.
        """
        if not free:
            layout.require_free(self.path)
        self.put("", IDENTITY, self.identity.encode(), mode=mode, replace=True)

    @asked
    def identify(self, identity: RootIdentity) -> None:
        """Say that it is another root from now on.

        Raises
        ------
        WriteError
        """
        mode = stat.S_IMODE(os.stat(IDENTITY, dir_fd=self._folder, follow_symlinks=False).st_mode)
        self.put("", IDENTITY, identity.encode(), mode=mode, replace=True)
        self.identity = identity

    @asked
    def read_identity(self) -> RootIdentity:
        """Return who it says now that it is.

        Raises
        ------
        FileNotFoundError, FormatError, ReadError
        """
        data = self.read("", IDENTITY, DOCUMENT_BYTES_MAX)
        return RootIdentity.decode(data, str(self.path / IDENTITY))

    @asked
    def withdraw(self) -> None:
        """Remove what was made of the folder, unless somebody else has made a root of it.

        Some filesystems do not remove a lock file that is held. The caller calls again after it
        released the lock; a second call is harmless.

        Raises
        ------
        Nothing: what cannot be removed stays.
        """
        if not self._made:
            return
        with contextlib.suppress(FastioError, OSError):
            try:
                data = self.read("", IDENTITY, DOCUMENT_BYTES_MAX)
            except FileNotFoundError:
                data = b""
            if data not in (b"", self.identity.encode()):
                return
            for sub in FOLDERS if data else ():
                for name in self.names(sub):
                    self.remove(sub, name)
            for name in (PROMISE, IDENTITY, LOCK):
                self.remove("", name)
            for path in reversed(self._made):
                path.rmdir()
            self._made = []

    @property
    def uuid(self) -> str:
        """Its own."""
        return self.identity.root

    # ---- what is in it

    @asked
    def is_itself(self) -> bool:
        """Return whether its path leads to it, and it is still the root that it was opened as.

        Raises
        ------
        ReadError
            If it does not answer.
        """
        if not self.is_at(self.path):
            return False
        try:
            data = self.read("", IDENTITY, DOCUMENT_BYTES_MAX)
            return RootIdentity.decode(data, str(self.path / IDENTITY)) == self.identity
        except (FormatError, ReadError, FileNotFoundError):
            return False

    @asked
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
                record = lineage.own_record(self.identity, record)
                progress()
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

    @asked
    def manifest(self, digest: str) -> EncodedManifest:
        """Return a manifest.

        Raises
        ------
        FileNotFoundError, ReadError, FormatError
        """
        name = manifest_name(digest)
        data = self.read(MANIFESTS, name, MANIFEST_BYTES_MAX)
        encoded = decode(data, digest, str(self.path / MANIFESTS / name))
        return lineage.own_manifest(self.identity, encoded)

    @asked
    def promised(self) -> int:
        """Return the highest ballot that somebody has promised here; 0 where none is known.

        Raises
        ------
        FormatError, ReadError
            If the file is damaged, or cannot be read.
        """
        path = self.path / PROMISE
        try:
            promise = Promise.decode(self.read("", PROMISE, DOCUMENT_BYTES_MAX), str(path))
        except FileNotFoundError:
            return 0
        return promise.ballot

    @asked
    def open_shard(self, name: str) -> _native.File:
        """Open a shard, and no symlink in its place.

        Raises
        ------
        FileNotFoundError, ReadError
        """
        with self.sub(SHARDS) as folder:
            return _native.File.open_in(folder, name, str(self.path / SHARDS / name))

    def note(self, problem: str) -> None:
        """Remember what is wrong with it, once."""
        if problem not in self.problems:
            self.problems.append(problem)

    # ---- what is put there

    @asked
    def put_record(self, record: Record, *, mode: int = FILE_MODE) -> None:
        """Write a commit record; one of a lower ballot, or a damaged one, gives way to it.

        Raises
        ------
        ConflictError
            If there is one with a ballot as high.
        WriteError, ReadError
        """
        name = record_name(record.generation)
        try:
            self.put(COMMITS, name, record.encode(), mode=mode)
        except ConflictError:
            other = self.records().get(record.generation)
            if other is not None and other.ballot >= record.ballot:
                raise
            self.put(COMMITS, name, record.encode(), mode=mode, replace=True)

    @asked
    def put_manifest(self, encoded: EncodedManifest, *, mode: int = FILE_MODE) -> None:
        """Write a manifest, unless it is there and whole.

        Raises
        ------
        WriteError, ReadError
        """
        with contextlib.suppress(FileNotFoundError, FormatError, ReadError):
            self.manifest(encoded.digest)
            return
        self.put(MANIFESTS, manifest_name(encoded.digest), encoded.data, mode=mode, replace=True)

    @asked
    def put_promise(self, ballot: int, *, mode: int = FILE_MODE) -> None:
        """Promise that nobody who comes later takes this ballot or a lower one.

        Raises
        ------
        WriteError
        """
        promise = Promise(self.identity.store, self.uuid, ballot)
        self.put("", PROMISE, promise.encode(), mode=mode, replace=True)

    @asked
    def remove_leftovers(self) -> None:
        """Remove the temporary files of whoever was killed while he wrote.

        Raises
        ------
        Nothing: what cannot be removed stays.
        """
        for sub in ("", SHARDS, MANIFESTS, COMMITS):
            remove_leftovers(self.path / sub / "new")


def _prepared(
    path: Path, identity: RootIdentity, mode: int, asks: Answering, *, free: bool
) -> Root:
    if not free:
        layout.require_free(path)
    folders.make(folders.missing(path.parent, blamed=path), durable=True, blamed=path)
    wanted = [path / name for name in ("", *FOLDERS)]
    made = [each for each in wanted if make_folder(each, folder_mode(mode))]
    if path in made:
        sync_folder(path.parent, blamed=path)
    folder = write_called(path, "open", lambda: os.open(path, FOLDER))
    root = Root(path, folder, identity, asks)
    root._made = made
    return root
