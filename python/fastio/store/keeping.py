"""Upkeep of a store: rollback and collection of generations, replacement of roots, status."""

from __future__ import annotations

import os
from collections.abc import Callable
from uuid import UUID

from fastio.arguments.paths import AnyPath, path_of
from fastio.errors import ConflictError
from fastio.store import arguments, collect, creation, replacing, status
from fastio.store.collect import Collected
from fastio.store.commit import Session
from fastio.store.manifest import encode
from fastio.store.opened import OpenStore, now_s
from fastio.store.status import Generation, Status
from fastio.store.wholeness import is_whole


class Keeping:
    """The part of a `Store` for its operator."""

    _opened: OpenStore

    def generations(self) -> tuple[Generation, ...]:
        """Return all generations, the newest first.

        Raises
        ------
        ReplicaError
            A manifest cannot be read on any root.

        Examples
        --------
        >>> store.save({"weight": np.ones(3)})
        2
        >>> [each.number for each in store.generations()]
        [2, 1]
        """
        self._opened.require_open()
        return status.generations(self._opened.members)

    def rollback_to(self, generation: int) -> int:
        """Make the tensors of an older generation the newest one, by a commit that copies nothing.

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
            The generation does not exist, or no longer.
        ReplicaError
            As `save` does.

        Examples
        --------
        >>> store.save({"weight": np.ones(3)})
        2
        >>> store.rollback_to(1)
        3
        >>> sorted(store.load())
        ['bias', 'weight']
        """
        arguments.check_count("generation", generation, 0, 2**63 - 1)

        def write(session: Session, _: object) -> int:
            pinned = self._opened.members.pin(generation, None)
            try:
                assert session.head is not None
                head = session.head.manifest
                entries = [self._opened.members.placed(entry) for entry in head.roots]
                manifest = creation.moved(pinned.encoded.manifest, head, entries)
                if not is_whole(manifest, self._opened.members.roots):
                    raise ConflictError(
                        self._opened.members.name, f"generation {generation} is not whole any more"
                    )
                return session.commit(encode(manifest), now_s()).generation
            finally:
                pinned.hold.close()

        return self._opened.in_turn(write)

    def gc(self, keep: int = 1) -> Collected:
        """Remove old generations that nobody reads, and files of crashed saves.

        It writes nothing, and so works on a full disk. A file that cannot be removed is logged and
        left to the next call.

        Parameters
        ----------
        keep : int
            How many of the newest whole generations are kept.

        Raises
        ------
        ReplicaError, ConflictError
            As `save` does.
        ValueError
            `keep` is less than 1.

        Examples
        --------
        >>> store.save({"weight": np.ones(3)})
        2
        >>> store.gc(keep=1).generations  # generation 0 is the empty store
        (1, 0)
        """
        arguments.check_count("keep", keep, 1, 2**31)
        return self._opened.in_turn(
            lambda session, _: collect.collect(session, keep), proposes=False
        )

    def replace_root(self, old: AnyPath | UUID, new: AnyPath, *, force: bool = False) -> int:
        """Replace a root that is lost, or shall go, by another folder.

        The shards of the newest generation that the old root has are copied there and verified.
        Then a new generation is committed on the new set of roots. The old folder is no root any
        more.

        Parameters
        ----------
        old : path, str or uuid.UUID
            Its path, now or before; or its UUID, as text in any spelling that `uuid.UUID` takes.
        new : path
            A folder that is empty or missing; may be the path of the old one.
        force : bool
            Go on without a majority of the roots, as a store of two needs if one root is lost or
            cannot be written to. Generations that only the lost roots have are lost. The lost roots
            must not be used again.

        Returns
        -------
        int
            The number of the new generation.

        Raises
        ------
        UsageError
            There is no such root.
        WriteError
            The new folder is not empty, or a shard has no sound replica.
        ReplicaError
            No majority of the roots can be written to; see `force`.
        ConflictError

        Examples
        --------
        >>> shutil.rmtree("disk0")
        >>> store = fastio.Store.open("disk1")
        >>> store.replace_root("disk0", "disk2", force=True)
        2
        >>> store.status().degraded
        False
        """
        if isinstance(old, UUID):
            old = old.hex
        key = old if isinstance(old, str) else os.fspath(path_of(old, "a root"))
        (path,) = arguments.paths([new], to_write=True)

        def write(session: Session, is_cancelled: Callable[[], bool]) -> int:
            return replacing.replace_root(
                session, self._opened.members, str(key), path, now_s(), is_cancelled
            )

        return self._opened.in_turn(write, forced=force)

    def status(self) -> Status:
        """Return the present state of the store and of each root, without reading shards.

        Raises
        ------
        ReplicaError
            No root can be read.

        Examples
        --------
        >>> status = store.status()
        >>> list(status.roots.values()), status.degraded
        (['ok', 'ok'], False)
        """
        self._opened.require_open()
        return status.status(self._opened.members)
