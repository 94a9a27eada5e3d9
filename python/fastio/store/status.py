"""The state of a store: its generations, its roots, and commits in doubt."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from fastio.display import html
from fastio.display.values import counted, listed, one_line, size
from fastio.errors import FastioError, ReadError, ReplicaError
from fastio.store import reading, small
from fastio.store.history import in_doubt
from fastio.store.layout import FOLDERS, SHARDS
from fastio.store.members import Members
from fastio.store.root import Root
from fastio.store.small import KeptGenerations

_IN_DOUBT_SHOWN_MAX = 10
_PROBLEMS_SHOWN_MAX = 3  # of one kind on one root


@dataclass(frozen=True)
class Generation:
    """One version of a store.

    Attributes
    ----------
    number : int
    tensors, nbytes : int
        Number of its tensors, and their bytes in one replica.
    saved_at_s : int
        Seconds since 1970, by the clock of the writer.
    decided : bool
        Whether a majority of the roots has its record, or a later generation was made on it.

    Examples
    --------
    >>> (generation,) = store.generations()
    >>> generation.number, generation.tensors, generation.nbytes
    (1, 2, 36)
    """

    number: int
    tensors: int
    nbytes: int
    saved_at_s: int
    decided: bool

    @one_line
    def __repr__(self) -> str:
        what = f"{counted(self.tensors, 'tensor')}, {size(self.nbytes)}"
        doubt = "" if self.decided else ", IN DOUBT"
        return f"<fastio.store.Generation {self.number}: {what}{doubt}>"


@dataclass(frozen=True)
class Status:
    """The state of a store.

    Attributes
    ----------
    store : str
        Its UUID.
    generation : int
        The newest.
    degraded : bool
        Whether a root is not ``ok``, or the newest record is on fewer than a majority.
    roots : dict of str to str
        By path of each root ``ok``, or the problem: the root is missing, read-only or full; a
        record, a manifest or a shard of some generation is missing, of another size, or closed to
        this process; its lock or its promise is broken. Shards are opened and not read:
        `Store.verify` reads them.
    in_doubt : tuple of int
        Generations whose records are seen on fewer than a majority of the roots, and that no later
        one was made on. The next writer decides.
    free_bytes : dict of str to int
        Space for new shards on each root that can be reached, if its filesystem tells.
    verified_at_s : dict of str to (int or None)
        By path of each root that can be reached, the time when `Store.verify` last found it whole
        or repaired it: seconds since 1970, by the clock of that time. None if no time is known.

    Examples
    --------
    >>> status = store.status()
    >>> status.generation, status.degraded, status.in_doubt
    (1, False, ())
    """

    store: str
    generation: int
    degraded: bool
    roots: dict[str, str]
    in_doubt: tuple[int, ...]
    free_bytes: dict[str, int]
    verified_at_s: dict[str, int | None] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [self._head()]
        for path, state in self.roots.items():
            parts = [f"{path}: {state}"]
            if path in self.free_bytes:
                parts.append(f"{size(self.free_bytes[path])} free")
            if path in self.verified_at_s:
                parts.append(_verified(self.verified_at_s[path]))
            lines.append(f"  {', '.join(parts)}")
        if self.in_doubt:
            doubts = listed(self.in_doubt, _IN_DOUBT_SHOWN_MAX)
            lines.append(f"  in doubt: {', '.join(doubts)}")
        return "\n".join(lines)

    @one_line
    def __repr__(self) -> str:
        return f"<fastio.store.Status: {self._head()}, {counted(len(self.roots), 'root')}>"

    def _repr_html_(self) -> str:
        rows = [
            (
                path,
                state,
                size(self.free_bytes[path]) if path in self.free_bytes else "",
                _verified(self.verified_at_s[path]) if path in self.verified_at_s else "",
            )
            for path, state in self.roots.items()
        ]
        return html.table(self._head(), ("root", "state", "free", "verified"), rows, 0)

    def _head(self) -> str:
        degraded = ", DEGRADED" if self.degraded else ""
        return f"store {self.store}, generation {self.generation}{degraded}"


def generations(members: Members) -> tuple[Generation, ...]:
    """Return all generations that there are, the newest first.

    Raises
    ------
    ReplicaError
        If a manifest cannot be read on any root.
    """
    found = []
    standings = members.standings()
    doubted = in_doubt(standings)
    if not standings:  # there is one from when it was created
        raise ReplicaError(members.name, "no root has a sound commit record", members.missing)
    for standing in standings:
        record = standing.record
        if record.generation:  # the first one is the empty store
            manifest = members.manifest(record).manifest
            tensors = len(reading.names(manifest, members.name))
            nbytes = sum(entry.nbytes - entry.start for entry in manifest.shards)
            found.append(
                Generation(
                    record.generation, tensors, nbytes, record.saved_at_s, standing not in doubted
                )
            )
    return tuple(found)


def status(members: Members) -> Status:
    """Say how a store is, looked at now.

    Raises
    ------
    ReplicaError
        If no root can be read.
    """
    members.look_again()
    for root in members.roots.values():
        root.problems.clear()  # of an earlier look; they may be mended
    newest = members.pin(None, None)
    newest.hold.close()
    found = members.standings()
    kept = KeptGenerations.of(members, newest.generation)
    states: dict[str, str] = {}
    free: dict[str, int] = {}
    verified: dict[str, int | None] = {}
    retired: dict[str, str] = {}
    for root in list(members.roots.values()):
        path = str(root.path)
        verified[path] = small.verified_at(root)
        if root.uuid not in newest.standing.record.roots:
            retired[path] = "is no root of this store any more: another one has its place"
            continue
        states[path] = "; ".join(_looked_at(root, kept)) or "ok"
        space = _free_bytes(root)
        if space is not None:
            free[path] = space
    states.update({path: _without(path, why) for path, why in members.missing.items()})
    return Status(
        store=members.store,
        generation=newest.generation,
        degraded=not newest.standing.decided or any(state != "ok" for state in states.values()),
        roots=dict(sorted({**states, **retired}.items())),
        in_doubt=tuple(one.record.generation for one in in_doubt(found)),
        free_bytes=free,
        verified_at_s=verified,
    )


def _looked_at(root: Root, kept: KeptGenerations) -> list[str]:
    try:
        return root.answering.ask(lambda: list(_problems(root, kept)))
    except ReadError as error:
        return [_without(str(root.path), str(error))]


def _without(path: str, why: str) -> str:
    """A reason without the path of the root, which is told before it."""
    return why.removeprefix(f"{path}: ").removeprefix(f"{path}/")


def _problems(root: Root, kept: KeptGenerations) -> Iterator[str]:
    """The problems of a root; no shard is read."""
    yield from root.storage.upkeep.write_problems(FOLDERS)
    by_kind: dict[str, list[str]] = {}
    for problem in small.look(root, kept, quick=True):
        name = f"{problem.path.removeprefix(f'{root.path}/')} {problem.cause}"
        by_kind.setdefault(problem.kind, []).append(name)
    for problems in by_kind.values():
        yield from listed(problems, _PROBLEMS_SHOWN_MAX)
    if "folder" not in by_kind:
        yield from _shard_problems(root, kept)
    for generation in kept.lost:
        yield f"no root has the manifest of generation {generation}"


def _shard_problems(root: Root, kept: KeptGenerations) -> Iterator[str]:
    """One line for all shards of a root that have the same problem."""
    own = {name: kept.shards[name].nbytes for name in sorted(kept.files_by_root.get(root.uuid, ()))}
    try:
        found = root.storage.upkeep.unreadable(SHARDS, own)
    except (FastioError, OSError) as error:
        yield _without(str(root.path), str(error))
        return
    by_problem: dict[str, list[str]] = {}
    for name, problem in found.items():
        by_problem.setdefault(problem, []).append(name)
    for problem, names in by_problem.items():
        verb = "is" if len(names) == 1 else "are"
        yield f"{len(names)} of {len(own)} shards {verb} {problem}: {names[0]}"


def _free_bytes(root: Root) -> int | None:
    try:
        space = root.storage.space()
    except (FastioError, OSError):
        return None
    return None if space is None else space[0]


def _verified(at_s: int | None) -> str:
    if at_s is None:
        return "never verified whole"
    return f"verified whole on {time.strftime('%Y-%m-%d %H:%M', time.gmtime(at_s))} UTC"
