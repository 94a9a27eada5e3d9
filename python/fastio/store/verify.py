"""Store.verify: reads every file on every root, and repairs damage if asked to."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from fastio.arguments.checks import check_kind
from fastio.display.progress import progress_bar
from fastio.display.values import counted
from fastio.errors import FastioError, ReplicaError
from fastio.options import Options
from fastio.reading.findings import Verification, tell
from fastio.reading.survey import Advance
from fastio.report.events import Event
from fastio.storage import answering
from fastio.store import mend, replicas, small
from fastio.store.commit import Session
from fastio.store.documents import Verified
from fastio.store.history import established, outlived
from fastio.store.layout import COMMITS, LOCK, VERIFIED
from fastio.store.manifest import RootEntry, ShardEntry
from fastio.store.opened import OpenStore, now_s
from fastio.store.pinned import Hold
from fastio.store.replicas import RootRead
from fastio.store.root import Root
from fastio.store.small import KeptGenerations, Problem

# Each needs what stands before it.
_ORDER: Sequence[small.Kind] = ("folder", "lock", "promise", "manifest", "record", "verified")
_HOW = "store.verify(repair=True) mends what can be mended"
_LATER = "what it has is not known, and nothing was mended there: verify when its disk answers"
_MENDED = "written anew from the other roots"


class Verifying:
    """The part of a `Store` that verifies."""

    _opened: OpenStore

    def verify(
        self, *, repair: bool = False, options: Options | None = None, progress: bool = False
    ) -> Verification:
        """Read every replica of every shard of all generations, and all small files of each root.

        Bytes come from the disks, past the page cache, and from all disks at once, within 128 MiB
        of memory. A root without damage notes the time; `status` shows it.

        Parameters
        ----------
        repair : bool
            Repair shards and manifests from the other roots, and records under the writer's locks.
            A missing folder, a broken lock file or promise, and an identity that the promise still
            names are repaired, too. Repaired files are read once more.
        options : Options, optional
            As `fastio.verify` takes it.
        progress : bool
            Show a progress bar.

        Returns
        -------
        Verification
            Lists the damage, which raises nothing; `ok` is True if none is left.

        Raises
        ------
        ReplicaError
            No root has the files that opening a generation needs.
        UsageError
            The store is closed.
        MemoryLimitError
            ``memory_limit_bytes`` is less than a chunk.

        Examples
        --------
        >>> next(Path("disk0/shards").iterdir()).unlink()
        >>> found = store.verify(repair=True)
        >>> found.ok, len(found.damaged), len(found.repaired)
        (True, 1, 1)
        """
        self._opened.require_open()
        check_kind("options", options, Options)
        begun = time.perf_counter()
        members = self._opened.members
        members.look_again()
        run = _Run(self._opened, options if options is not None else Options(), repair=repair)
        with run.holding():
            run.look()
            with progress_bar(members.name, run.nbytes_wanted(), shown=progress) as advance:
                run.read(advance)
            if repair:
                run.mend()
        found = run.result(time.perf_counter() - begun)
        tell(found)
        return found


@dataclass
class _Finding:
    """One file that is not as it should be."""

    problem: Problem
    event: Event
    is_mended: bool = False


@dataclass
class _Run:
    """One verification of a store."""

    opened: OpenStore
    options: Options
    repair: bool
    found: dict[str, _Finding] = field(default_factory=dict)  # by path
    # Those that were there when it began: others may join or leave meanwhile.
    roots: dict[str, Root] = field(default_factory=dict)  # by UUID
    reads: dict[str, RootRead] = field(default_factory=dict)  # by root's UUID
    notes: list[str] = field(default_factory=list)
    files: int = 0
    kept: KeptGenerations = field(default_factory=lambda: KeptGenerations([]))
    gone: set[int] = field(default_factory=set)  # generations that others have collected

    @contextlib.contextmanager
    def holding(self) -> Iterator[None]:
        """Keep all generations from being collected while they are read."""
        members = self.opened.members
        for root in members.roots.values():
            root.problems.clear()  # of an earlier look; they may be mended
        newest = members.pin(None, None)
        holds = [newest.hold]
        entries = {entry.uuid: entry for entry in newest.encoded.manifest.roots}
        mode = newest.encoded.manifest.settings.file_mode
        self._missing_roots(entries, mode)
        del newest, entries
        try:
            newest_number = self._newest(holds)
            self.kept = KeptGenerations.of(members, newest_number)
            gone = outlived(members.standings(), newest_number)
            self.gone = {standing.record.generation for standing in gone}
            self.roots = dict(members.roots)
            yield
        finally:
            for each in holds:
                each.close()

    def _newest(self, holds: list[Hold]) -> int:
        """The newest generation; all that there are, are held from now on."""
        members = self.opened.members
        newest = members.pin(None, None)
        holds.append(newest.hold)
        for standing in established(members.standings(), newest.generation)[1:]:
            with contextlib.suppress(FastioError):  # its lost manifest is a finding of its own
                holds.append(members.pin(standing.record.generation, None).hold)
        return newest.generation

    def _missing_roots(self, entries: dict[str, RootEntry], mode: int) -> None:
        members = self.opened.members
        why = dict(members.missing)
        became = mend.mend_roots(members, entries, mode) if self.repair else {}
        for path, cause in why.items():
            found = self._add(Problem("root", "", path, cause.removeprefix(f"{path}: ")))
            found.is_mended = became.get(path) == ""
            if found.is_mended:
                found.event = replace(found.event, remedy="it can be opened again")
            elif path in became:
                remedy = f"could not be mended: {became[path]}"
                found.event = replace(found.event, remedy=remedy)

    def _add(self, problem: Problem, event: Event | None = None) -> _Finding:
        event = event or Event("damage", problem.path, problem.cause, "")
        return self.found.setdefault(problem.path, _Finding(problem, event))

    # ---- what is looked at

    def look(self) -> None:
        """Look at the small files."""
        for root in self.roots.values():
            for problem in small.looked(root, self.kept, quick=False):
                self._add(problem)
            generations = len(self.kept.standings)
            self.files += 2 * generations + 2  # records and manifests; identity and promise

    def _entries(self, root: Root) -> list[ShardEntry]:
        names = sorted(self.kept.files_by_root.get(root.uuid, ()))
        return [self.kept.shards[name] for name in names]

    def nbytes_wanted(self) -> int:
        """Bytes of the shards that are to be read."""
        roots = self.roots.values()
        return sum(entry.nbytes for root in roots for entry in self._entries(root))

    def read(self, advance: Advance | None) -> None:
        """Read every replica of every shard."""
        roots = self.roots.values()
        wanted = [(root, self._entries(root)) for root in roots]
        self.reads = replicas.read_all(wanted, self.options, advance)
        for uuid, read in self.reads.items():
            self.files += read.files
            self.notes += read.notes
            if read.silent:
                path = str(self.opened.members.roots[uuid].path)
                self._add(Problem("root", uuid, path, read.silent))
            for path, event in read.damaged.items():
                problem = Problem("shard", uuid, path, event.cause, path.rpartition("/")[2])
                self._add(problem, event)

    # ---- what is mended

    def mend(self) -> None:
        """Mend what was found, and look at it once more."""
        for kind in _ORDER:
            of_kind = [each for each in self._open() if each.problem.kind == kind]
            if kind == "record" and of_kind:
                self._attempt(of_kind, partial(self._mend_records, of_kind))
            elif kind not in ("record", "verified"):
                for each in of_kind:
                    self._attempt([each], partial(self._mend_small, each.problem))
        for each in self._open():
            if each.problem.kind == "shard":
                self._attempt([each], partial(self._mend_shard, each.problem))
        self._look_again()

    def _open(self) -> list[_Finding]:
        silent = {
            uuid
            for uuid, root in self.opened.members.roots.items()
            if answering.is_silent(str(root.path))
        }
        return [
            each
            for each in self.found.values()
            if not each.is_mended and each.problem.root not in silent
        ]

    def _attempt(self, of_kind: list[_Finding], do: Callable[[], None]) -> None:
        try:
            do()
        except (FastioError, OSError) as error:
            for each in of_kind:
                each.event = replace(each.event, remedy=f"could not be mended: {error}")
        else:
            for each in of_kind:
                each.is_mended = True
                each.event = replace(each.event, remedy=_MENDED)

    def _mend_small(self, problem: Problem) -> None:
        members, mode = self.opened.members, self.kept.files_mode
        root = self._root(problem)
        if problem.kind == "folder":
            root.storage.upkeep.mend_folder(problem.name, mode)
            for more in small.looked(root, self.kept, quick=True):
                if more.kind in ("manifest", "record"):  # what was in it
                    self._add(more)
        elif problem.kind == "lock":
            root.storage.upkeep.mend_lock(LOCK)
        elif problem.kind == "promise":
            among = next((one.record.roots for one in self.kept.standings), (root.uuid,))
            mend.mend_promise(root, members, among, mode)
        else:
            mend.mend_manifest(root, problem.name, members, mode)

    def _root(self, problem: Problem) -> Root:
        """The root of a problem, if it is one of the store's still."""
        members = self.opened.members
        root = members.roots.get(problem.root)
        if root is None:
            cause = "its root has left this store meanwhile, or cannot be reached any more"
            raise ReplicaError(problem.path, cause, members.missing)
        return root

    def _mend_records(self, of_kind: list[_Finding]) -> None:
        for each in of_kind:
            root = self._root(each.problem)
            root.storage.upkeep.make_way(COMMITS, each.problem.name)

        kept = {standing.record.generation for standing in self.kept.standings}

        def write(session: Session, _: object) -> None:
            mend.mend_records(session, self.kept.files_mode, kept, self.gone)

        self.opened.in_turn(write, renews=False)

    def _mend_shard(self, problem: Problem) -> None:
        members = self.opened.members
        root = self._root(problem)
        mend.mend_shard(root, self.kept.shards[problem.name], members)

    def _look_again(self) -> None:
        """Read mended files once more; one that is still not sound was not mended."""
        members = self.opened.members
        for root in self.roots.values():
            root.problems.clear()
        newest = max((one.record.generation for one in self.kept.standings), default=0)
        self.kept.standings = established(members.standings(), newest)
        for root in self.roots.values():
            for problem in small.looked(root, self.kept, quick=False):
                if problem.kind != "verified":
                    self._still(self._add(problem), problem.cause)
        wanted = []
        for root in self.roots.values():
            names = [
                each.problem.name
                for each in self.found.values()
                if each.is_mended
                and each.problem.kind == "shard"
                and each.problem.root == root.uuid
            ]
            wanted.append((root, [self.kept.shards[name] for name in names]))
        for uuid, read in replicas.read_all(wanted, self.options, None).items():
            self.reads.setdefault(uuid, RootRead()).nbytes += read.nbytes
            for path, event in read.damaged.items():
                problem = Problem("shard", uuid, path, event.cause, path.rpartition("/")[2])
                self._still(self._add(problem, event), event.cause)

    @staticmethod
    def _still(found: _Finding, cause: str) -> None:
        if found.is_mended or not found.event.remedy:
            found.is_mended = False
            remedy = f"could not be mended: once more it {cause}"
            found.event = replace(found.event, remedy=remedy)

    # ---- what is told

    def result(self, seconds: float) -> Verification:
        """Note on each root that it is whole, and return what was found."""
        members = self.opened.members
        states = dict(members.missing)
        count = nbytes = 0
        for root in self.roots.values():
            more = small.strays(root, self.kept.files_by_root.get(root.uuid, ()), self.kept)
            count, nbytes = count + more[0], nbytes + more[1]
            if root.uuid in members.roots or str(root.path) not in states:
                states[str(root.path)] = self._state(root)
        found = list(self.found.values())
        for each in found:
            if each.problem.kind == "root" and answering.is_silent(each.event.path):
                each.event = replace(each.event, remedy=_LATER)
            elif not self.repair and not each.event.remedy:
                each.event = replace(each.event, remedy=_HOW)
        repaired = tuple(
            Event("repair", each.event.path, each.event.cause, each.event.remedy)
            for each in found
            if each.is_mended
        )
        return Verification(
            source=members.name,
            files=self.files,
            nbytes=sum(read.nbytes for read in self.reads.values()),
            seconds=seconds,
            damaged=tuple(each.event for each in sorted(found, key=lambda each: each.event.path)),
            repaired=repaired,
            roots=dict(sorted(states.items())),
            strays=count,
            stray_bytes=nbytes,
            notes=tuple(self.notes),
        )

    def _state(self, root: Root) -> str:
        own = [each for each in self.found.values() if each.problem.root == root.uuid]
        for each in own:
            if each.problem.kind == "root":
                return each.problem.cause
        # A note that is damaged is replaced by a new one.
        left = [e for e in own if not e.is_mended and e.problem.kind != "verified"]
        stale = [e for e in own if e.problem.kind == "verified"]
        if left or (stale and not self.repair):
            return f"{counted(len(left) + len(stale), 'file')} damaged or missing"
        try:
            self._note_whole(root)
        except (FastioError, OSError) as error:
            for each in stale:
                each.event = replace(each.event, remedy=f"could not be mended: {error}")
            self.notes.append(f"{root.path}: that it is whole could not be noted there: {error}")
            if stale:
                return f"{counted(len(stale), 'file')} damaged or missing"
        else:
            for each in stale:
                each.is_mended = True
                each.event = replace(each.event, remedy="replaced")
        return "mended" if own else "whole"

    def _note_whole(self, root: Root) -> None:
        read = self.reads.get(root.uuid, RootRead())
        document = Verified(
            root.identity.store, root.uuid, now_s(), read.nbytes, len(self.kept.standings)
        )
        mend.put_file(root, VERIFIED, document.encode(), self.kept.files_mode)
