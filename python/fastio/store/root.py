"""One root of a store: its identity, and the small files that it has in a storage."""

from __future__ import annotations

import contextlib
import math
import re
from pathlib import PurePath
from typing import NoReturn

from fastio.errors import ConflictError, FastioError, FormatError, ReadError
from fastio.storage import answering
from fastio.storage.answering import Call, asked, progress
from fastio.storage.by_address import kind_of
from fastio.storage.known import address_of
from fastio.storage.protocol import FILE_MODE, Storage
from fastio.store import IDENTITY, lineage
from fastio.store.documents import DOCUMENT_BYTES_MAX, Promise, Record, RootIdentity
from fastio.store.layout import (
    COMMITS,
    FOLDERS,
    LOCK,
    MANIFESTS,
    PROMISE,
    SKELETON,
    manifest_name,
    record_name,
)
from fastio.store.manifest import MANIFEST_BYTES_MAX, EncodedManifest, decode

_GENERATION = re.compile(r"[0-9a-f]{16}")


class Root:
    """A root that could be opened; `open` and `create` make them.

    Parameters
    ----------
    storage : Storage
        Closed with this object.
    identity : RootIdentity

    Attributes
    ----------
    storage : Storage
    path : pathlib.PurePath
        Absolute.
    answering : Answering
        Makes all calls that may take long.
    identity : RootIdentity
    problems : list of str
        What was found to be damaged in it, as messages.
    damaged : set of int
        Generations of which it has a record that cannot be read.
    """

    def __init__(self, storage: Storage, identity: RootIdentity) -> None:
        self.storage = storage
        self.path = storage.path
        self.answering = storage.answering
        self.identity = identity
        self.problems: list[str] = []
        self.damaged: set[int] = set()

    @classmethod
    def open(cls, path: PurePath, timeout_s: float = math.inf) -> Root:
        """Open a root.

        Parameters
        ----------
        path : pathlib.PurePath
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
    def begin_to_open(cls, path: PurePath, timeout_s: float) -> Call[Root]:
        """Open a root, and do not wait for it.

        Raises
        ------
        Nothing: the result does, as `open`.
        """
        path = address_of(str(path))
        asks = answering.of(path, timeout_s)

        def opened() -> Root:
            try:
                storage = kind_of(path).open_storage(path, asks)
            except BaseException:
                asks.close()
                raise
            try:
                return cls(storage, read_identity(storage))
            except BaseException:
                storage.close()
                raise

        return asks.begin(opened)

    @classmethod
    def create(
        cls,
        path: PurePath,
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
        cls,
        path: PurePath,
        identity: RootIdentity,
        mode: int,
        timeout_s: float,
        *,
        free: bool = False,
    ) -> Root:
        """Make the folders of a root; it is none until it is claimed.

        Raises
        ------
        WriteError
            If that fails, or there is something in the folder, unless that is known to be `free`.
        ReadError
            If it does not answer. Empty folders may be left there then.
        """
        path = address_of(str(path))
        kind = kind_of(path)
        asks = answering.of(path, timeout_s)

        def prepared() -> Root:
            if not free:
                kind.require_free(path, SKELETON)
            return cls(kind.make_storage(path, SKELETON, mode, asks), identity)

        try:
            return asks.ask(prepared)
        except BaseException:
            asks.close()
            raise

    def close(self) -> None:
        """Close its storage, when no call is made with it any more."""
        self.storage.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a root cannot be pickled or copied")

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
            kind_of(self.path).require_free(self.path, SKELETON)
        self.storage.replace("", IDENTITY, self.identity.encode(), mode)

    @asked
    def identify(self, identity: RootIdentity) -> None:
        """Say that it is another root from now on.

        Raises
        ------
        FileNotFoundError, ReadError, WriteError
        """
        mode = self.storage.mode("", IDENTITY)
        self.storage.replace("", IDENTITY, identity.encode(), mode)
        self.identity = identity

    @asked
    def read_identity(self) -> RootIdentity:
        """Return who it says now that it is.

        Raises
        ------
        FileNotFoundError, FormatError, ReadError
        """
        return read_identity(self.storage)

    @asked
    def withdraw(self) -> None:
        """Remove what was made of the folder, unless somebody else has made a root of it.

        Some filesystems do not remove a lock file that is held. The caller calls again after it
        released the lock; a second call is harmless.

        Raises
        ------
        Nothing: what cannot be removed stays.
        """
        storage = self.storage
        if not storage.is_new:
            return
        with contextlib.suppress(FastioError, OSError):
            try:
                data = storage.read("", IDENTITY, DOCUMENT_BYTES_MAX)
            except FileNotFoundError:
                data = b""
            if data not in (b"", self.identity.encode()):
                return
            for folder in FOLDERS if data else ():
                for name in storage.names(folder):
                    storage.remove(folder, name)
            for name in (PROMISE, IDENTITY, LOCK):
                storage.remove("", name)
            storage.unmake()

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
        if not self.storage.is_at(self.path):
            return False
        try:
            return self.read_identity() == self.identity
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
        for name in self.storage.names(COMMITS):
            if not _GENERATION.fullmatch(name):
                continue
            path = self.path / COMMITS / name
            try:
                data = self.storage.read(COMMITS, name, DOCUMENT_BYTES_MAX)
                record = Record.decode(data, str(path))
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
        data = self.storage.read(MANIFESTS, name, MANIFEST_BYTES_MAX)
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
        try:
            data = self.storage.read("", PROMISE, DOCUMENT_BYTES_MAX)
        except FileNotFoundError:
            return 0
        return Promise.decode(data, str(self.path / PROMISE)).ballot

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
            self.storage.put_if_absent(COMMITS, name, record.encode(), mode)
        except ConflictError:
            other = self.records().get(record.generation)
            if other is not None and other.ballot >= record.ballot:
                raise
            self.storage.replace(COMMITS, name, record.encode(), mode)

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
        self.storage.replace(MANIFESTS, manifest_name(encoded.digest), encoded.data, mode)

    @asked
    def put_promise(self, ballot: int, *, mode: int = FILE_MODE) -> None:
        """Promise that nobody who comes later takes this ballot or a lower one.

        Raises
        ------
        WriteError
        """
        promise = Promise(self.identity.store, self.uuid, ballot)
        self.storage.replace("", PROMISE, promise.encode(), mode)


def read_identity(storage: Storage) -> RootIdentity:
    """Return which root a storage says that it has.

    Raises
    ------
    FileNotFoundError, FormatError, ReadError
    """
    data = storage.read("", IDENTITY, DOCUMENT_BYTES_MAX)
    return RootIdentity.decode(data, str(storage.path / IDENTITY))
