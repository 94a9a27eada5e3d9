"""Store: tensors on several roots, in generations, with replicas."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, overload

from fastio import checksums
from fastio.errors import ConflictError, UsageError
from fastio.frameworks import FrameworkName
from fastio.loading import Verify
from fastio.options import Options
from fastio.paths import AnyPath, Source, not_found, paths_of
from fastio.reader import Reader
from fastio.replica import OnDamage
from fastio.shown import one_line
from fastio.store import arguments, collect, status
from fastio.store.collect import Collected
from fastio.store.commit import Session
from fastio.store.documents import RootIdentity
from fastio.store.manifest import Manifest, Named, RootEntry, Settings, encode
from fastio.store.members import Held, Members
from fastio.store.partition import Partition
from fastio.store.root import FILE_MODE, Root
from fastio.store.status import Generation, Status
from fastio.store.verify import Verifying
from fastio.store.writes import now_s

Placement = str | Mapping[str, int | Sequence[int]]


class Open:
    """What `open` is: of the class, and of a store."""

    @overload
    def __get__(self, store: None, kind: type[Store]) -> _OpensStore: ...
    @overload
    def __get__(self, store: Store, kind: type[Store]) -> _OpensReader: ...
    def __get__(self, store: Store | None, kind: type[Store]) -> _OpensStore | _OpensReader:
        return kind._open_store if store is None else store._open_reader


class _OpensStore(Protocol):
    def __call__(
        self,
        roots: Source,
        *,
        generation: int | None = None,
        min_generation: int | None = None,
    ) -> Store: ...


class _OpensReader(Protocol):
    def __call__(
        self,
        *,
        framework: FrameworkName = "numpy",
        verify: Verify = True,
        on_damage: OnDamage = "continue",
        generation: int | None = None,
        options: Options | None = None,
    ) -> Reader: ...


class Store(Verifying):
    """Tensors kept on several roots, in generations. `Store.create` and `Store.open` make one.

    A root is a folder, on a device of its own as a rule. Every shard is on as many of them as there
    are replicas; a load reads from all of them at once, and where a copy fails from the next one.
    A save makes a new generation, which is there as a whole or not at all.
    """

    # ---- making and opening one

    @classmethod
    def create(
        cls,
        roots: Sequence[AnyPath],
        *,
        replicas: int = 2,
        shard_bytes: float | str | None = None,
        chunk_bytes: float | str | None = None,
        partition: Partition = "size",
        placement: Placement = "rendezvous",
        weights: Sequence[float] | None = None,
        mode: int = FILE_MODE,
    ) -> Store:
        """Make a store of folders that are not there, or empty. Those above them are made, too.

        Parameters
        ----------
        roots : sequence of path
            1 to 64, best each on a device of its own, as `fastio.save` takes a path. A majority of
            them must be reachable to save, any that has what is asked for to load.
        replicas : int
            On how many roots each shard is.
        shard_bytes : int or str, optional
            Bytes of the tensors of a shard; a larger tensor is cut along axis 0. Default: by how
            much is saved, 64 MiB to 4 GiB.
        chunk_bytes : int or str, optional
            Bytes that get a checksum, a power of two from 64 KiB to 16 MiB. Default 1 MiB.
        partition : {"size", "hash", "range"} or callable
            Which tensors share a shard: those that are handed over one after another; by a hash of
            the name; neighbours in the order of names; or what a callable returns for a name.
        placement : {"rendezvous", "range"} or mapping
            Which roots hold a shard: by hashing, so that few shards move when roots change;
            neighbours together; or patterns of names (``"layers.*"``, the first that matches) and
            the places of their roots in `roots`.
        weights : sequence of float, optional
            How much each root holds and carries in proportion to the others. Default: all alike.
        mode : int
            Of files; folders may be searched by whoever may read. Default 0600.

        Raises
        ------
        WriteError
            A root that is not empty, or cannot be written to.
        TypeError, ValueError
            An argument that is none of the above.
        """
        paths = arguments.paths(roots, to_write=True)
        arguments.check_count("replicas", replicas, 1, len(paths))
        shares = arguments.weights(weights, len(paths))
        store = uuid.uuid4().hex
        uuids = sorted(uuid.uuid4().hex for _ in paths)
        settings = Settings(
            replicas=replicas,
            shard_bytes=arguments.size("shard_bytes", shard_bytes),
            chunk_bytes=checksums.checked_chunk_bytes(arguments.size("chunk_bytes", chunk_bytes)),
            partition=arguments.partition_name(partition),
            placement=placement if isinstance(placement, str) else "mapping",
            places=arguments.places(placement, uuids, replicas),
            file_mode=arguments.mode(mode),
        )
        for path in paths:
            Root.check_free(path)
        made = []
        for path, root, weight in zip(paths, uuids, shares, strict=True):
            made.append(
                Root.create(path, RootIdentity(store, root, float(weight)), settings.file_mode)
            )
        members = Members.of(made)
        with Session(store, made, {}, uuids, mode=settings.file_mode) as session:
            session.commit(_empty(store, made, settings), now_s())
        return cls(members, members.take(None, None), partition)

    @classmethod
    def _open_store(
        cls,
        roots: Source,
        *,
        generation: int | None = None,
        min_generation: int | None = None,
    ) -> Store:
        """Open a store.

        Parameters
        ----------
        roots : path or collection of path
            Any of its roots, each as `fastio.load` takes a path; the others are looked for where
            they were last.
        generation : int, optional
            The one to read. Default: the newest.
        min_generation : int, optional
            Refuse to go on if the newest one is older: these roots would be a backup, or the others
            are missing.

        Raises
        ------
        FileNotFoundError
            If there is no store.
        ReplicaError
            If no root has what is needed: each with its reason.
        StaleError
            If the newest generation is older than `min_generation`.
        ConflictError
            If there is no such generation, any more.
        FormatError
            A manifest that is not what it says, or of a newer version.
        """
        for what, number in (("generation", generation), ("min_generation", min_generation)):
            if number is not None:
                arguments.check_count(what, number, 0, 2**63 - 1)
        paths = paths_of(roots)
        members = _members([paths] if isinstance(paths, str) else paths)
        return cls(members, members.take(generation, min_generation))

    @property
    def generation(self) -> int:
        """The one that is read: the newest when the store was opened, or saved to."""
        return self._taken.generation

    @property
    def roots(self) -> tuple[Path, ...]:
        """Those that can be reached."""
        return tuple(root.path for root in self._members.roots.values())

    @one_line
    def __repr__(self) -> str:
        closed = ", closed" if self._closed else ""
        return f"<fastio.Store {self._members.name}, generation {self.generation}{closed}>"

    # ---- generations

    def generations(self) -> tuple[Generation, ...]:
        """Return all generations that there are, the newest first.

        Raises
        ------
        ReplicaError
            If a manifest cannot be read on any root.
        """
        self._require_open()
        return status.generations(self._members)

    def rollback_to(self, generation: int) -> int:
        """Make an older generation the newest one again, by a new commit; nothing is copied.

        Parameters
        ----------
        generation : int

        Returns
        -------
        int
            The number of the new generation.

        Raises
        ------
        ConflictError
            If there is no such generation, any more.
        ReplicaError
            As `save` does.
        """
        arguments.check_count("generation", generation, 0, 2**63 - 1)

        def write(session: Session, _: object) -> int:
            taken = self._members.take(generation, None)
            try:
                if not self._members.is_whole(taken.named):
                    raise ConflictError(
                        self._members.name, f"generation {generation} is not whole any more"
                    )
                return session.commit(taken.named, now_s()).generation
            finally:
                taken.held.close()

        return self._in_turn(write)

    def gc(self, keep: int = 1) -> Collected:
        """Remove old generations, and what crashed saves left; not those that somebody reads.

        Parameters
        ----------
        keep : int
            How many of the newest are kept.

        Raises
        ------
        ReplicaError, ConflictError, WriteError
            As `save` does; what was removed until then is.
        ValueError
            If `keep` is less than 1.
        """
        arguments.check_count("keep", keep, 1, 2**31)
        return self._in_turn(lambda session, _: collect.collect(session, keep), renews=False)

    def status(self) -> Status:
        """Say how the store is, looked at now.

        Raises
        ------
        ReplicaError
            If no root can be read.
        """
        self._require_open()
        return status.status(self._members)

    open = Open()
    """`Store.open(roots)` opens a store, and `store.open()` its tensors, as `fastio.open` does."""

    # ---- its life

    def close(self) -> None:
        """Let go of the roots, and let the generation be collected. What was loaded stays."""
        if not self._closed:
            self._closed = True
            # Whoever still reads goes on holding the generation, and its roots.
            self._taken = replace(self._taken, held=Held())
            self._members.close()

    def __enter__(self) -> Store:
        self._require_open()
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        self._require_open()
        if callable(self._by):
            raise UsageError("a store whose partition is a callable cannot be pickled")
        return _reopen, (self._members.paths, self.generation, self._by)

    def __exit__(self, *_: object) -> None:
        self.close()


def _members(typed: Sequence[str]) -> Members:
    try:
        return Members(arguments.paths(typed))
    except FileNotFoundError as error:
        # Of an absolute path it cannot be told any more what was meant by it.
        raise not_found(typed[0], str(error.strerror)) from None


def _empty(store: str, roots: Sequence[Root], settings: Settings) -> Named:
    entries = sorted(
        (RootEntry(root.uuid, root.identity.weight, str(root.path)) for root in roots),
        key=lambda entry: entry.uuid,
    )
    return encode(
        Manifest(
            store=store, roots=tuple(entries), shards=(), cuts={}, metadata={}, settings=settings
        )
    )


def _reopen(paths: Sequence[Path], generation: int, by: str | None) -> Store:
    members = Members(paths)
    return Store(members, members.take(generation, None), by)
