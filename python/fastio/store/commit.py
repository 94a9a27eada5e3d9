"""Writing to a store: the locks of a majority, what is in doubt decided first, then a new record.

`Session` is what a writer holds from before it looks until its record stands; see `history` for why
two of them never contradict each other.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from fastio.errors import ConflictError, FastioError, FormatError, ReadError, ReplicaError
from fastio.storage.protocol import FILE_MODE, Lock
from fastio.store import wholeness
from fastio.store.documents import Record
from fastio.store.history import Standing, next_ballot, standings, unknown
from fastio.store.holding import Holding
from fastio.store.manifest import EncodedManifest
from fastio.store.root import Root

_log = logging.getLogger("fastio")


class Session(Holding):
    """A writer's hold on a majority of the roots; use it with `with`.

    Parameters
    ----------
    store : str
        UUID.
    roots : sequence of Root
        Those that can be reached.
    missing : mapping of str to str
        Those that cannot, each with the reason.
    among : sequence of str
        UUIDs of all roots, of which a majority is needed.
    also : sequence of str
        Others of which a majority is needed, too: the roots before these, while it is in doubt
        whether these have taken their place.
    mode : int
        Of new files.
    wait_s : float, optional
        How long another writer is waited for. Default: `flocks.WAIT_S`.
    is_cancelled : callable
        Asked now and then while another writer is waited for.
    proposes : bool
        Whether it will commit. Whoever only removes needs no space: nothing is promised, and
        nothing in doubt is decided.
    forced : bool
        Whether those roots are enough that can be written to, where they are no majority. The
        records of the others are read all the same, where they can be.

    Raises
    ------
    ReplicaError
        If no majority can be reached.
    ConflictError
        If somebody else does not release the locks.
    WriteError, ReadError

    Attributes
    ----------
    head : EncodedManifest or None
        The newest generation.
    proposed : Record or None
        The last one that may be on some root.
    is_forced : bool
        Whether a majority is done without; `among` has the roots then that are left.
    """

    def __init__(
        self,
        store: str,
        roots: Sequence[Root],
        missing: Mapping[str, str],
        among: Sequence[str],
        *,
        also: Sequence[str] = (),
        mode: int = FILE_MODE,
        wait_s: float | None = None,
        is_cancelled: Callable[[], bool] = lambda: False,
        proposes: bool = True,
        forced: bool = False,
    ) -> None:
        self._records: dict[str, dict[int, Record]] = {}
        self._promised: list[int] = []
        self._joined: set[str] = set()
        self.proposed: Record | None = None
        self.head: EncodedManifest | None = None
        super().__init__(
            store,
            roots,
            missing,
            among,
            also=also,
            mode=mode,
            wait_s=wait_s,
            is_cancelled=is_cancelled,
            forced=forced,
        )
        others = {*among, *also} - self.by_uuid.keys() if forced else ()
        self._only_read = [root for root in roots if root.uuid in others]
        try:
            self._look()
            if proposes:
                self.propose()
        except BaseException:
            self.close()
            raise

    def require_unchanged(self) -> None:
        """Refuse to go on where a root was made one of another store, since it was opened.

        Raises
        ------
        ConflictError
        """
        for root in self.roots:
            now = root.identity
            with contextlib.suppress(FastioError, OSError):  # repair is not done here
                now = root.read_identity()
            if now != root.identity:
                raise ConflictError(
                    root.path,
                    f"is a root of the store {now.store} now: somebody has adopted it meanwhile; "
                    "fastio.Store.open opens that",
                )

    # ---- what stands

    def _look(self) -> None:
        def look(root: Root) -> None:
            self._records[root.uuid] = root.records()
            try:
                self._promised.append(root.promised())
            except (FormatError, ReadError):
                # With all roots locked, the records show each ballot that was promised.
                if not self.has_all:
                    raise

        self._on_each(look, "a commit")
        for root in self._only_read:
            with contextlib.suppress(FastioError, OSError):  # it is of no more use
                self._records[root.uuid] = root.records()

    def standings(self) -> list[Standing]:
        """Return how each generation stands on the roots that are held, the newest first.

        Raises
        ------
        Nothing.
        """
        return standings(self._records, self._damaged())

    def has_record(self, root: Root, generations: Collection[int]) -> bool:
        """Return whether a root had a sound record of any of these, when it was locked."""
        return not self._records[root.uuid].keys().isdisjoint(generations)

    def _damaged(self) -> dict[str, set[int]]:
        return {root.uuid: root.damaged for root in self._read}

    def require_known(self, newest: Record) -> None:
        """Refuse to take an older generation for the newest one because records are damaged.

        Raises
        ------
        ReplicaError
        """
        lost = unknown(newest, self._damaged(), self._records)
        if lost is not None:
            problem = f"generation {lost} has no sound commit record"
            raise ReplicaError(self.roots[0].path, problem, self._failed)

    def abandon(self, root: Root, error: Exception) -> None:
        """Go on without a root that fails; `commit` refuses where no majority is left."""
        super().abandon(root, error)
        if not self._may_narrow:
            self._records.pop(root.uuid, None)
        elif root.uuid in self._joined:  # it is what all this is done for
            self._require_joined()
        else:
            self._only_read.append(root)

    def propose(self) -> None:
        """Take a ballot, and decide what was in doubt.

        Raises
        ------
        ReplicaError, ConflictError
        """
        self._promise()
        self.head = self._decide()

    def _promise(self) -> None:
        self._ballot = next_ballot(self._records, self._promised)
        self._on_each(lambda root: root.put_promise(self._ballot, mode=self._mode), "a commit")

    def _decide(self) -> EncodedManifest | None:
        """The manifest of the newest generation, which is on a majority now."""
        self.generation = -1
        there = {root.uuid: root for root in self._read}
        found = wholeness.newest(self.standings(), self.manifest, there)
        if found is None:
            return None
        standing, encoded = found
        self.require_known(standing.record)
        self.generation = standing.record.generation
        locked = {*self.among, *self._also}
        among = tuple(uuid for uuid in standing.record.roots if uuid in locked)
        if among != self.among:  # a record of other roots is passed over
            self.among, self._also = among, self.among
        if standing.outvoted or not standing.holders >= self.by_uuid.keys():
            self._take_up(standing.record, encoded)
        return encoded

    @property
    def by_uuid(self) -> dict[str, Root]:
        """The roots that are held, by UUID."""
        return {root.uuid: root for root in self.roots}

    @property
    def _read(self) -> list[Root]:
        """The roots that are held, and those that are read without."""
        return [*self.roots, *self._only_read]

    def manifest(self, record: Record) -> EncodedManifest:
        """Return the manifest of a generation, from any root that is read.

        Raises
        ------
        ReplicaError
            If none has it.
        """
        reasons = {}
        for root in self._read:
            try:
                return root.manifest(record.manifest)
            except (FastioError, FileNotFoundError) as error:
                reasons[str(root.path)] = str(error)
        raise ReplicaError(
            self.roots[0].path,
            f"generation {record.generation} may have been committed, and no root has its manifest",
            {**self._failed, **reasons},
        )

    def _take_up(self, record: Record, encoded: EncodedManifest) -> None:
        """Bring what was in doubt to every root, with the ballot of this session."""
        _log.info("generation %d is taken up on %d roots", record.generation, len(self.roots))
        self._put(replace(record, ballot=self._ballot), encoded)

    # ---- what is added

    def commit(
        self, encoded: EncodedManifest, saved_at_s: int, *, among: Sequence[str] | None = None
    ) -> Record:
        """Make a manifest the next generation; it is reported when it is on a majority.

        Parameters
        ----------
        encoded : EncodedManifest
        saved_at_s : int
        among : sequence of str, optional
            The roots of the store from then on. Default: as before.

        Raises
        ------
        ConflictError
            If somebody else was faster, who has broken the locks.
        ReplicaError
            If it does not come to stand on a majority: it is in doubt then, and whoever writes next
            decides. With `among` it stands on a majority of the roots until then, and of those from
            then on; of these, where a majority was done without, on one of those that are here.
        """
        if among is not None:
            here = {*self.among, *self.by_uuid}
            self._from_then_on = tuple(uuid for uuid in among if uuid in here)
        record = Record(
            store=self.store,
            generation=self.generation + 1,
            ballot=self._ballot,
            manifest=encoded.digest,
            parent=self.head.digest if self.head is not None else None,
            roots=self.among if among is None else tuple(sorted(among)),
            saved_at_s=saved_at_s,
        )
        self._put(record, encoded)
        self.head, self.generation = encoded, record.generation
        return record

    def _put(self, record: Record, encoded: EncodedManifest) -> None:
        """The manifest on all roots first, and then the record, root by root."""

        def put_record(root: Root) -> None:
            if self._records[root.uuid].get(record.generation) != record:
                root.put_record(record, mode=self._mode)

        what = f"generation {record.generation}"
        self._on_each(lambda root: root.put_manifest(encoded, mode=self._mode), what)
        self._require_joined()
        if self.is_forced:  # a commit that is cut off is seen nowhere then
            self.roots.sort(key=lambda root: root.uuid not in self._joined)
        self.proposed = record
        self._on_each(put_record, what)

    def _require_joined(self) -> None:
        if not self._joined <= self.by_uuid.keys():
            path = next(iter(self._failed)) if not self.roots else self.roots[0].path
            raise ReplicaError(path, "the new root cannot be written to", self._failed)

    def join(self, root: Root, lock: Lock) -> None:
        """Have a root take part that is to be one of the store from the next commit on.

        Parameters
        ----------
        root : Root
        lock : Lock
            Its lock, which is released with the others.

        Raises
        ------
        WriteError
        """
        root.put_promise(self._ballot, mode=self._mode)
        self._locks[root.uuid] = lock
        self._records[root.uuid] = {}
        self._joined.add(root.uuid)
        self.roots.append(root)
