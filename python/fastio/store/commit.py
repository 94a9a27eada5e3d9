"""Writing to a store: the locks of a majority, what is in doubt decided first, then a new record.

`Session` is what a writer holds from before it looks until its record stands; see `history` for why
two of them never contradict each other.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType

from fastio.errors import (
    ConflictError,
    FastioError,
    FormatError,
    ReadError,
    ReplicaError,
    WriteError,
)
from fastio.store import locks
from fastio.store.documents import Record, majority_of
from fastio.store.history import Standing, next_ballot, standings, unknown
from fastio.store.locks import Lock
from fastio.store.manifest import Named
from fastio.store.root import FILE_MODE, Root

_log = logging.getLogger("fastio")

LOCK_WAIT_S = 60.0
"""How long a writer waits for another one."""
_PAUSE_S = (0.005, 0.05)


class Session:
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
    mode : int
        Of new files.
    wait_s : float
        How long another writer is waited for.
    is_cancelled : callable
        Asked now and then while another writer is waited for.

    Raises
    ------
    ReplicaError
        If no majority can be reached.
    ConflictError
        If somebody else does not let go of the locks.
    WriteError, ReadError
    """

    def __init__(
        self,
        store: str,
        roots: Sequence[Root],
        missing: Mapping[str, str],
        among: Sequence[str],
        *,
        mode: int = FILE_MODE,
        wait_s: float = LOCK_WAIT_S,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self.store = store
        self.among = tuple(sorted(among))
        self._mode = mode
        self._failed = dict(missing)
        self._locks: dict[str, Lock] = {}
        self._records: dict[str, dict[int, Record]] = {}
        self._promised: list[int] = []
        self.roots: list[Root] = []
        members = sorted((root for root in roots if root.uuid in among), key=lambda r: r.uuid)
        try:
            self._lock(members, wait_s, is_cancelled)
            self._look()
            self._promise()
            self.head = self._decide()
        except BaseException:
            self.close()
            raise

    @property
    def majority(self) -> int:
        """How many roots decide."""
        return majority_of(self.among)

    def _require_majority(self, what: str) -> None:
        count = len(self.roots)
        if count >= self.majority:
            return
        raise ReplicaError(
            self.roots[0].path if self.roots else next(iter(self._failed), self.store),
            f"{what} needs {self.majority} of the {len(self.among)} roots, and has {count}",
            self._failed,
        )

    def _on_each(self, do: Callable[[Root], None], what: str) -> None:
        """Do something on every root, and go on without those where it fails."""
        for root in list(self.roots):
            try:
                do(root)
            except ConflictError:
                raise
            except (FastioError, OSError) as error:
                self.give_up(root, error)
        self._require_majority(what)

    # ---- locks

    def _lock(
        self, members: Sequence[Root], wait_s: float, is_cancelled: Callable[[], bool]
    ) -> None:
        """Lock all that can be had, in one order for everybody; if that is no majority, let go and
        try again.
        """
        deadline = time.monotonic() + wait_s
        while held_by_others := self._try_to_lock(members):
            if time.monotonic() > deadline or is_cancelled():
                if len(self._locks) >= self.majority:  # it is enough
                    for root in held_by_others:
                        self._failed[str(root.path)] = f"is locked by {_holder(root)}"
                    break
                holder = _holder(held_by_others[0])
                self._unlock()
                raise ConflictError(
                    held_by_others[0].path, f"somebody else is writing to this store: {holder}"
                )
            self._unlock()
            time.sleep(random.uniform(*_PAUSE_S))
        self.roots = [root for root in members if root.uuid in self._locks]
        self._require_majority("a commit")
        for root in self.roots:
            _sign(self._locks[root.uuid].fd)

    def _try_to_lock(self, members: Sequence[Root]) -> list[Root]:
        """Lock what can be locked; what others hold is returned."""
        held_by_others = []
        for root in members:
            try:
                lock = locks.lock(root, self._mode)
            except (ReadError, WriteError, FileNotFoundError) as error:
                self._failed[str(root.path)] = str(error)
                continue
            if lock is None:
                held_by_others.append(root)
            else:
                self._locks[root.uuid] = lock
        return held_by_others

    def _unlock(self) -> None:
        while self._locks:
            self._locks.popitem()[1].close()

    # ---- what stands

    def _look(self) -> None:
        def look(root: Root) -> None:
            self._records[root.uuid] = root.records()
            try:
                self._promised.append(root.promised())
            except FormatError:
                # Where all roots are locked, each record of a ballot that was promised is seen.
                if len(self.roots) < len(self.among):
                    raise

        self._on_each(look, "a commit")

    def give_up(self, root: Root, error: Exception) -> None:
        """Go on without a root that fails; `commit` refuses where no majority is left."""
        _log.warning("a store goes on without %s: %s", root.path, error)
        self._failed[str(root.path)] = str(error)
        self.roots.remove(root)
        self._records.pop(root.uuid, None)
        self._locks.pop(root.uuid).close()

    def _promise(self) -> None:
        self._ballot = next_ballot(self._records, self._promised)
        self._on_each(lambda root: root.put_promise(self._ballot, mode=self._mode), "a commit")

    def _decide(self) -> Named | None:
        """The manifest of the newest generation, which is on a majority now."""
        self.generation = -1
        damaged = {root.uuid: root.damaged for root in self.roots}
        for standing in standings(self._records, damaged):
            named = self._named(standing)
            if named is None:
                continue
            lost = unknown(standing.record, damaged, self._records)
            if lost is not None:
                problem = f"generation {lost} has no sound commit record"
                raise ReplicaError(self.roots[0].path, problem, self._failed)
            self.generation = standing.record.generation
            if standing.outvoted or len(standing.holders) < len(self.roots):
                self._take_up(standing.record, named)
            return named
        return None

    def _named(self, standing: Standing) -> Named | None:
        """The manifest of a generation; None where nobody was told that it is there, and it is
        not.
        """
        record, reasons = standing.record, {}
        for root in self.roots:
            try:
                return root.manifest(record.manifest)
            except (FastioError, FileNotFoundError) as error:
                reasons[str(root.path)] = str(error)
        if standing.never_reported:
            return None
        raise ReplicaError(
            self.roots[0].path,
            f"generation {record.generation} may have been committed, and no root has its manifest",
            {**self._failed, **reasons},
        )

    def _take_up(self, record: Record, named: Named) -> None:
        """Bring what was in doubt to every root, with the ballot of this session."""
        _log.info("generation %d is taken up on %d roots", record.generation, len(self.roots))
        self._put(replace(record, ballot=self._ballot), named)

    # ---- what is added

    def commit(self, named: Named, saved_at_s: int) -> Record:
        """Make a manifest the next generation; it is reported when it is on a majority.

        Raises
        ------
        ConflictError
            If somebody else was faster, who has broken the locks.
        ReplicaError
            If it does not come to stand on a majority: it is in doubt then, and whoever writes next
            decides.
        """
        record = Record(
            store=self.store,
            generation=self.generation + 1,
            ballot=self._ballot,
            manifest=named.digest,
            parent=self.head.digest if self.head is not None else None,
            roots=self.among,
            saved_at_s=saved_at_s,
        )
        self._put(record, named)
        self.head, self.generation = named, record.generation
        return record

    def _put(self, record: Record, named: Named) -> None:
        """The manifest on all roots first, and then the record, root by root."""

        def put_record(root: Root) -> None:
            if self._records[root.uuid].get(record.generation) != record:
                root.put_record(record, mode=self._mode)

        what = f"generation {record.generation}"
        self._on_each(lambda root: root.put_manifest(named, mode=self._mode), what)
        self._on_each(put_record, what)

    # ---- its end

    @property
    def failed(self) -> Mapping[str, str]:
        """Roots that could not be reached or written to, and why."""
        return self._failed

    def close(self) -> None:
        """Let go of the locks."""
        self._unlock()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _sign(lock: int) -> None:
    """Say who holds a lock, for whoever waits for it."""
    with contextlib.suppress(OSError):
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)


def _holder(root: Root) -> str:
    try:
        return root.read("", "lock", 4096).decode(errors="replace").strip() or "it does not say who"
    except (FastioError, OSError):
        return "it cannot be read who"
