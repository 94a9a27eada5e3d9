"""The locks of a majority of the roots, held from before a writer looks until it has written."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from types import TracebackType
from typing import TypeVar

from fastio.errors import ConflictError, FastioError, ReadError, ReplicaError, WriteError
from fastio.host import flocks
from fastio.storage.protocol import FILE_MODE, Lock
from fastio.store import locks
from fastio.store.documents import majority_of
from fastio.store.layout import LOCK
from fastio.store.root import Root

_log = logging.getLogger("fastio")

_Self = TypeVar("_Self", bound="Holding")


class Holding:
    """Roots whose locks are held; use it with `with`. `Session` says what its parameters are."""

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
        forced: bool = False,
    ) -> None:
        self.store = store
        self.is_forced = False
        self._may_narrow = forced
        self.among = tuple(sorted(among))
        self._also: tuple[str, ...] = tuple(also)
        self._from_then_on: tuple[str, ...] = ()
        self._mode = mode
        self._failed = dict(missing)
        self._locks: dict[str, Lock] = {}
        self.roots: list[Root] = []
        wanted = {*among, *also}
        members = sorted((root for root in roots if root.uuid in wanted), key=lambda r: r.uuid)
        try:
            self._lock(members, wait_s, is_cancelled)
        except BaseException:
            self.close()
            raise

    @property
    def majority(self) -> int:
        """How many roots decide."""
        return majority_of(self.among)

    @property
    def has_all(self) -> bool:
        """Whether no root is away, or done without."""
        return {*self.among, *self._also} <= {root.uuid for root in self.roots}

    def _is_majority(self, uuids: Collection[str]) -> bool:
        return all(
            len(set(uuids).intersection(each)) >= majority_of(each)
            for each in (self.among, self._also, self._from_then_on)
            if each
        )

    def require_majority(self, what: str) -> None:
        """Refuse to go on without a majority of the roots.

        Raises
        ------
        ReplicaError
        """
        uuids = [root.uuid for root in self.roots]
        if self._is_majority(uuids) or self._narrow(uuids):
            return
        count = len(set(uuids).intersection(self.among))
        more = f" (and of the {len(self._also)} before them)" if self._also else ""
        more += " (and of those from then on)" if self._from_then_on else ""
        raise ReplicaError(
            self.roots[0].path if self.roots else next(iter(self._failed), self.store),
            f"{what} needs {self.majority} of the {len(self.among)} roots{more}, and has {count}",
            self._failed,
        )

    def _narrow(self, uuids: Collection[str]) -> bool:
        """Have those decide that can be written to, if a majority may be done without."""
        among = tuple(uuid for uuid in self.among if uuid in uuids)
        if not self._may_narrow or not among:
            return False
        self.among, self._also, self.is_forced = among, (), True
        self._from_then_on = tuple(uuid for uuid in self._from_then_on if uuid in uuids)
        return True

    def _on_each(self, do: Callable[[Root], None], what: str) -> None:
        """Do something on every root. Roots where it fails are dropped while a majority is left.

        A root that joins comes last, so it gets nothing before the others.
        """
        for root in list(self.roots):
            try:
                do(root)
            except ConflictError:
                raise
            except (FastioError, OSError) as error:
                self.abandon(root, error)
                self.require_majority(what)
        self.require_majority(what)

    # ---- locks

    def _lock(
        self, members: Sequence[Root], wait_s: float | None, is_cancelled: Callable[[], bool]
    ) -> None:
        """Lock all that can be had, in one order for everybody; if somebody else has one of them,
        release and try again.
        """
        held_by_others: list[Root] = []

        def lock_all() -> bool | None:
            held_by_others[:] = self._try_to_lock(members)
            if held_by_others:
                self._unlock()
            return not held_by_others or None

        def what() -> str:
            root = held_by_others[0]
            return f"the lock of the root {root.path}, which {_holder(root)} has"

        if not flocks.wait_for(lock_all, what, wait_s=wait_s, is_cancelled=is_cancelled):
            # Without those that others hold for so long, if it is enough.
            held_by_others[:] = self._try_to_lock(members)
            if held_by_others and not self._is_majority(self._locks):
                self._unlock()
                raise ConflictError(
                    held_by_others[0].path,
                    f"somebody else is writing to this store: {_holder(held_by_others[0])}",
                )
        for root in held_by_others:
            self._failed[str(root.path)] = f"is locked by {_holder(root)}"
        # Those that are to take the place of others come last: see `replacing`.
        self.roots = sorted(
            (root for root in members if root.uuid in self._locks),
            key=lambda root: bool(self._also) and root.uuid not in self._also,
        )
        self.require_majority("a commit")
        self._on_each(lambda root: _sign(root, self._locks[root.uuid]), "a commit")

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

    def require_all(self) -> None:
        """Refuse to go on without one of the roots.

        Raises
        ------
        ReplicaError
        """
        if not self.has_all:
            raise ReplicaError(
                self.roots[0].path,
                f"all {len(self.among)} roots are needed, and {len(self.roots)} can be written to",
                self._failed,
            )

    def abandon(self, root: Root, error: Exception) -> None:
        """Go on without a root that fails; `commit` refuses where no majority is left."""
        _log.warning("a store goes on without %s: %s", root.path, error)
        self._failed[str(root.path)] = str(error)
        self.roots.remove(root)
        # Its call in progress ends before another writer can lock it.
        root.answering.afterwards(self._locks.pop(root.uuid).close)

    # ---- its end

    @property
    def failed(self) -> Mapping[str, str]:
        """Roots that could not be reached or written to, and why."""
        return self._failed

    def close(self) -> None:
        """Let go of the locks."""
        self._unlock()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _sign(root: Root, lock: Lock) -> None:
    """Say who holds a lock, for whoever waits for it. It is the first write to a root."""
    who = f"process {os.getpid()} on {socket.gethostname()}\n"
    root.answering.ask(lambda: lock.sign(who))


def _holder(root: Root) -> str:
    try:
        who = root.storage.read("", LOCK, 4096).decode(errors="replace").strip()
        return who or "it does not say who"
    except (FastioError, OSError):
        return "it cannot be read who"
