"""The replicas of one shard of a store, opened when the shard is to be read."""

from __future__ import annotations

import errno
import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import fastio._native as _native
from fastio.catalog.table import ChecksumTable
from fastio.errors import FastioError, FormatError, ReplicaError
from fastio.formats import safetensors
from fastio.reading.watch import Watch, is_persistent
from fastio.storage import answering
from fastio.store.layout import SHARDS
from fastio.store.manifest import ShardEntry
from fastio.store.root import Root

# Of the time to answer: for a disk that owes an answer already, where another one has a replica.
_OWING_SHARE = 0.1
_OWN_TROUBLE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class StoredFiles:
    """The replicas of a shard, on the roots that the manifest names.

    Opening them raises a ReplicaError if no replica can be read; or if one cannot, and nothing is
    to be tried again.

    Parameters
    ----------
    entry : ShardEntry
    holders : sequence of (str, Root or None)
        The path of each replica, and its root if that can be reached; the preferred one first.
    watch : Watch
        Is told of the replicas that cannot be read.
    source : str
        The store, for messages.
    tensors : sequence of str
        The tensors of the shard, for messages.
    """

    on_roots: ClassVar[bool] = True

    def __init__(
        self,
        entry: ShardEntry,
        holders: Sequence[tuple[str, Root | None]],
        watch: Watch,
        source: str,
        tensors: Sequence[str],
    ) -> None:
        self._entry = entry
        self._holders = holders
        self._watch = watch
        self._source = source
        self._tensors = tensors
        self._opened: _Opened | None = None

    @property
    def path(self) -> str:
        """Of the preferred replica."""
        return self._holders[0][0]

    @property
    def nbytes(self) -> int:
        """Of each replica, as the manifest says."""
        return self._entry.nbytes

    @property
    def is_sealed(self) -> bool:
        """Shards of a store are."""
        return True

    @property
    def replicas(self) -> tuple[_native.Replica, ...]:
        """The open files, the preferred one first."""
        return self._open().replicas

    @property
    def lacking(self) -> Mapping[str, str]:
        """The paths of replicas that cannot be read, and why; roots out of reach are left out."""
        return self._open().lacking

    @property
    def table(self) -> ChecksumTable:
        """The checksums, which the header of a replica has."""
        return self._open().table

    def _open(self) -> _Opened:
        if self._opened is None:
            self._opened = self._open_each()
            self._watch.lacks(self, self._tensors)
        return self._opened

    def _open_each(self) -> _Opened:
        files: list[_native.Replica] = []
        lacking: dict[str, str] = {}
        away: dict[str, str] = {}
        header: bytes | None = None
        timeouts_s = self._timeouts_s()
        for path, root in self._holders:
            if root is None:
                away[path] = "its root cannot be reached"
                continue
            try:
                file, header = root.answering.ask(
                    functools.partial(self._open_on, root, path, header), timeouts_s[path]
                )
                files.append(file)
            except FileNotFoundError:
                lacking[path] = "is missing"
            except (FastioError, OSError) as error:
                if isinstance(error, OSError) and error.errno in _OWN_TROUBLE:
                    raise  # that is not the replica's
                if isinstance(error, OSError) and error.errno == errno.ETIMEDOUT:
                    self._watch.hung_paths.add(path)
                lacking[path] = str(error).removeprefix(f"{path}: ")
        if not files or (lacking and not is_persistent(self._watch)):
            problem = f"a replica of the shard {self._entry.file} cannot be read"
            if not files:
                problem = f"no replica of the shard {self._entry.file} can be read"
            reasons = {**lacking, **away}
            raise ReplicaError(self._source, problem, reasons, self._tensors, self.path)
        table = safetensors.locate(files[0], header).table
        if table is None:
            raise FormatError(files[0].path, "has no checksums", expected="a shard of a store")
        return _Opened(tuple(files), lacking, table)

    def _timeouts_s(self) -> dict[str, float]:
        """How long each replica is waited for, by its path."""
        reached = {path: root for path, root in self._holders if root is not None}
        timeout_s = answering.patience_s(self._watch.timeout_s, len(reached) - 1)
        owing = {path for path, root in reached.items() if root.answering.owes_answer}
        if len(owing) == len(reached):
            owing.clear()
        return {path: timeout_s * (_OWING_SHARE if path in owing else 1) for path in reached}

    def _open_on(
        self, root: Root, path: str, header: bytes | None
    ) -> tuple[_native.Replica, bytes]:
        """A replica, and the header, which is read from the first one that can be opened."""
        file = root.storage.open_file(SHARDS, self._entry.file)
        if file.nbytes != self._entry.nbytes:
            raise FormatError(
                path, f"has {file.nbytes} bytes", expected=f"{self._entry.nbytes}, as the manifest"
            )
        return file, self._header(file) if header is None else header

    def _header(self, file: _native.Replica) -> bytes:
        header = file.read(0, self._entry.start)
        found = hashlib.sha256(header).hexdigest()
        if found != self._entry.digest:
            raise FormatError(
                file.path,
                f"its header is damaged, or of another shard: its SHA-256 is {found}",
                expected=self._entry.digest,
            )
        return header


class _Opened(NamedTuple):
    replicas: tuple[_native.Replica, ...]
    lacking: Mapping[str, str]
    table: ChecksumTable
