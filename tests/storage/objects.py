"""A second kind of storage: an object store in memory, as far as S3 and its like go.

A bucket has get of a range, put and put if absent, list by prefix, and delete; no rename, no lock
and no folder. Locks are lease objects. A load reads ranges through a feed.
"""

from __future__ import annotations

import errno
import itertools
import threading
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath

from fastio import _native
from fastio.errors import ConflictError, FormatError, ReadError, WriteError
from fastio.host.new_file import own_descriptor
from fastio.host.replacement import Replacement
from fastio.storage.address import Url
from fastio.storage.answering import Answering, asked
from fastio.storage.kind import Skeleton
from fastio.storage.protocol import FILE_MODE

_NUMBERS = itertools.count()
_LEASES = ".leases"
_EXCLUSIVE = "exclusive"


class Bucket:
    """Objects by key; each call is atomic, and each bucket a disk of its own by `number`.

    Parameters
    ----------
    scratch : pathlib.Path
        Where this machine has local files until they are uploaded.

    Attributes
    ----------
    calls : list of (str, str)
        The verb and the key of each call.
    failing : mapping of str to OSError
        What calls of a verb raise.
    """

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.number = 2**40 + next(_NUMBERS)  # no st_dev of this machine
        self._objects: dict[str, bytes] = {}
        self._lock = threading.Lock()
        self.calls: list[tuple[str, str]] = []
        self.failing: Mapping[str, OSError] = {}

    def _begin(self, verb: str, key: str) -> None:
        self.calls.append((verb, key))
        if verb in self.failing:
            raise self.failing[verb]

    def get(self, key: str, begin: int = 0, nbytes: int | None = None) -> bytes:
        with self._lock:
            self._begin("get", key)
            data = self._objects[key]
        return data[begin:] if nbytes is None else data[begin : begin + nbytes]

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        with self._lock:
            self._begin("put", key)
            if if_absent and key in self._objects:
                return False
            self._objects[key] = bytes(data)
            return True

    def list(self, prefix: str) -> dict[str, int]:
        with self._lock:
            self._begin("list", prefix)
            found = {key: len(data) for key, data in self._objects.items()}
        return {key: nbytes for key, nbytes in found.items() if key.startswith(prefix)}

    def delete(self, key: str) -> None:
        with self._lock:
            self._begin("delete", key)
            self._objects.pop(key, None)


BUCKETS: dict[str, Bucket] = {}
"""By name: the first part of a URL after ``mem://``."""


class _Lease:
    """An object that stands for a lock; `signed` is the file that says who holds it."""

    def __init__(self, bucket: Bucket, key: str, signed: str = "") -> None:
        self._bucket = bucket
        self._key = key
        self._signed = signed

    def sign(self, who: str) -> None:
        self._bucket.put(self._signed, who.encode())

    def close(self) -> None:
        key, self._key = self._key, ""
        if key:
            self._bucket.delete(key)

    def __del__(self) -> None:
        self.close()


class ObjectStorage:
    """Objects below a prefix, as a `Storage`."""

    def __init__(self, path: Url, answering: Answering, *, is_new: bool) -> None:
        self.path = path
        self.answering = answering
        self.bucket, self._prefix = _bucket_of(path)
        self.is_new = is_new
        answering.disk = self.bucket.number

    @property
    def locks(self) -> ObjectLocks:
        return ObjectLocks(self)

    @property
    def upkeep(self) -> ObjectUpkeep:
        return ObjectUpkeep(self)

    def key(self, folder: str, name: str) -> str:
        """The key of a file, which is below the prefix."""
        for each in (folder, name) if folder else (name,):
            if each in ("", ".", "..") or "/" in each or "\0" in each:
                raise ReadError(errno.EINVAL, "open", self.path / folder, detail="no plain name")
        return f"{self._prefix}{folder}/{name}" if folder else f"{self._prefix}{name}"

    def get(self, folder: str, name: str, begin: int = 0, nbytes: int | None = None) -> bytes:
        key = self.key(folder, name)
        path = self.path / folder / name
        try:
            return self.bucket.get(key, begin, nbytes)
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "no such object", str(path)) from None
        except OSError as error:
            raise ReadError(error.errno or errno.EIO, "get", path) from error

    def put(self, folder: str, name: str, data: bytes, *, if_absent: bool = False) -> bool:
        key = self.key(folder, name)
        try:
            return self.bucket.put(key, data, if_absent=if_absent)
        except OSError as error:
            path = self.path / folder / name
            raise WriteError(error.errno or errno.EIO, "put", path) from error

    def listed(self, prefix: str) -> dict[str, int]:
        try:
            found = self.bucket.list(prefix)
        except OSError as error:
            raise ReadError(error.errno or errno.EIO, "list", self.path) from error
        return {key.removeprefix(prefix): nbytes for key, nbytes in found.items()}

    @asked
    def names(self, folder: str) -> list[str]:
        return sorted(self.sizes(folder))

    @asked
    def sizes(self, folder: str) -> dict[str, int]:
        prefix = f"{self._prefix}{folder}/" if folder else self._prefix
        return {name: nbytes for name, nbytes in self.listed(prefix).items() if "/" not in name}

    @asked
    def size(self, folder: str, name: str) -> int:
        return len(self.get(folder, name))

    @asked
    def mode(self, folder: str, name: str) -> int:
        self.size(folder, name)
        return FILE_MODE

    @asked
    def read(self, folder: str, name: str, nbytes_max: int) -> bytes:
        data = self.get(folder, name, 0, nbytes_max + 1)
        if len(data) > nbytes_max:
            path = self.path / folder / name
            raise FormatError(path, f"has more than {nbytes_max} bytes")
        return data

    @asked
    def read_range(self, folder: str, name: str, begin: int, nbytes: int) -> bytes:
        return self.get(folder, name, begin, nbytes)

    @asked
    def open_file(self, folder: str, name: str) -> _native.Feed:
        opened = self.get(folder, name)

        def read(offset: int, nbytes: int) -> bytes:
            data = self.get(folder, name, offset, nbytes)
            if data != opened[offset : offset + nbytes]:  # as a get says of another ETag
                raise OSError(errno.ESTALE, "another object has its key now")
            return data

        return _native.Feed(self.path / folder / name, len(opened), read, disk=self.bucket.number)

    @asked
    def put_if_absent(self, folder: str, name: str, data: bytes, mode: int) -> None:
        if not self.put(folder, name, data, if_absent=True):
            raise ConflictError(self.path / folder / name, "is there already")

    @asked
    def replace(self, folder: str, name: str, data: bytes, mode: int) -> None:
        self.put(folder, name, data)

    @asked
    def new_file(self, folder: str, name: str) -> Upload:
        self.key(folder, name)
        return Upload(self, folder, self.bucket.scratch / name)

    @asked
    def remove(self, folder: str, name: str) -> None:
        key = self.key(folder, name)
        try:
            self.bucket.delete(key)
        except OSError as error:
            path = self.path / folder / name
            raise WriteError(error.errno or errno.EIO, "delete", path) from error

    @asked
    def sync(self, folder: str) -> None:
        pass  # a put that has returned is durable

    @asked
    def is_at(self, path: str | PurePath) -> bool:
        return str(path) == str(self.path)

    @asked
    def disk(self) -> int:
        return self.bucket.number

    @asked
    def space(self) -> tuple[int, int] | None:
        return None

    @asked
    def unmake(self) -> None:
        self.is_new = False

    def close(self) -> None:
        self.answering.close()

    def __del__(self) -> None:
        self.close()


class Upload(Replacement):
    """A local file that becomes an object when it takes its place."""

    def __init__(self, storage: ObjectStorage, folder: str, scratch: Path) -> None:
        super().__init__(scratch, FILE_MODE)
        self._storage = storage
        self._below = folder

    def link(self) -> None:
        """Do nothing: an object has no name before it is whole."""

    def rename(self) -> None:
        data = Path(own_descriptor(self._fd)).read_bytes()
        self._storage.put(self._below, self.path.name, data)

    def sync_name(self) -> None:
        """Do nothing: a put that has returned is durable."""


class ObjectLocks:
    """Leases; whoever wants one exclusively shows that first, and then looks for others."""

    def __init__(self, storage: ObjectStorage) -> None:
        self.answering = storage.answering
        self._storage = storage

    def _lease(self, folder: str, name: str, kind: str, signed: str = "") -> _Lease | None:
        """A lease of this kind on a file; None where somebody else has it."""
        key = self._storage.key(folder, name)
        lease = f"{folder}:{name}:{kind}"
        if not self._storage.put(_LEASES, lease, key.encode(), if_absent=True):
            return None
        return _Lease(self._storage.bucket, self._storage.key(_LEASES, lease), signed)

    def _leases(self, folder: str, name: str) -> set[str]:
        prefix = self._storage.key(_LEASES, f"{folder}:{name}:")
        return set(self._storage.listed(prefix))

    @asked
    def take(self, name: str, mode: int) -> _Lease | None:
        return self._lease("", name, "writer", signed=self._storage.key("", name))

    @asked
    def hold(self, folder: str, name: str) -> _Lease:
        held = self._lease(folder, name, uuid.uuid4().hex)
        assert held is not None  # nobody else has that UUID
        try:
            if _EXCLUSIVE in self._leases(folder, name):
                path = str(self._storage.path / folder / name)
                raise FileNotFoundError(errno.ENOENT, "is being removed", path)
            self._storage.size(folder, name)
        except BaseException:
            held.close()
            raise
        return held

    @asked
    def exclude(self, folder: str, name: str) -> _Lease | None:
        self._storage.size(folder, name)
        excluding = self._lease(folder, name, _EXCLUSIVE)
        if excluding is not None and self._leases(folder, name) != {_EXCLUSIVE}:
            excluding.close()
            return None
        return excluding


class ObjectUpkeep:
    """An object store has no folder, right or cache that could be wrong."""

    def __init__(self, storage: ObjectStorage) -> None:
        self._storage = storage

    def folder_problem(self, folder: str) -> str:
        return ""

    def lock_problem(self, name: str) -> str:
        return ""

    def write_problems(self, folders: Sequence[str]) -> list[str]:
        return []

    def unreadable(self, folder: str, wanted: Mapping[str, int]) -> dict[str, str]:
        sizes = self._storage.sizes(folder)
        missing = {name: "missing" for name in wanted if name not in sizes}
        other = {name for name in wanted if sizes.get(name, wanted[name]) != wanted[name]}
        return missing | dict.fromkeys(other, "of another size")

    def drop_cached(self, folder: str, name: str) -> None:
        pass

    def mend_folder(self, folder: str, mode: int) -> None:
        pass

    def mend_lock(self, name: str) -> None:
        pass

    def mend_file(self, folder: str, name: str, data: bytes, mode: int) -> None:
        self._storage.replace(folder, name, data, mode)

    def make_way(self, folder: str, name: str) -> None:
        pass

    def remove_leftovers(self, folders: Sequence[str]) -> None:
        pass


# ---- this module is a `Kind`


def open_storage(path: PurePath, answering: Answering) -> ObjectStorage:
    """Open what is at a URL; whether there is anything is seen when it is read."""
    return ObjectStorage(Url(path), answering, is_new=False)


def make_storage(
    path: PurePath, skeleton: Skeleton, mode: int, answering: Answering
) -> ObjectStorage:
    """Open what is at a URL: there is nothing to make."""
    return ObjectStorage(Url(path), answering, is_new=True)


def require_free(path: PurePath, skeleton: Skeleton) -> None:
    """Refuse a URL with objects below it, but for the files that a begun creation may leave."""
    require_own(path, skeleton)
    if any(folder in skeleton.folders for folder, _ in _below(path)):
        raise WriteError(errno.ENOTEMPTY, "put", path)


def require_own(path: PurePath, skeleton: Skeleton) -> None:
    """Refuse a URL with other objects below it than those of a root."""
    for folder, name in _below(path):
        if folder not in (_LEASES, *skeleton.folders) and name not in skeleton.files:
            raise WriteError(errno.ENOTEMPTY, "put", path)


def _below(path: PurePath) -> list[tuple[str, str]]:
    bucket, prefix = _bucket_of(path)
    keys = [key.removeprefix(prefix).rpartition("/") for key in bucket.list(prefix)]
    return [(folder, name) for folder, _, name in keys]


def _bucket_of(path: PurePath) -> tuple[Bucket, str]:
    """A bucket, and the prefix of all keys below a URL."""
    _, name, *prefix = path.parts
    if name not in BUCKETS:
        raise FileNotFoundError(errno.ENOENT, "no such bucket", str(path))
    return BUCKETS[name], "".join(f"{part}/" for part in prefix)
