"""How a store is: its generations, its roots, what is in doubt."""

from __future__ import annotations

from dataclasses import dataclass

from fastio import notebook
from fastio.errors import ReplicaError
from fastio.shown import counted, listed, one_line, size
from fastio.store import reading, wholeness
from fastio.store.members import Members

_IN_DOUBT_SHOWN_MAX = 10


@dataclass(frozen=True)
class Generation:
    """A version of a store that there is.

    Attributes
    ----------
    number : int
    tensors, nbytes : int
        How many it has, and their bytes (of one copy).
    saved_at_s : int
        Seconds since 1970, by the clock of whoever saved it.
    decided : bool
        Whether its record is seen on a majority of the roots.
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
    """How a store is.

    Attributes
    ----------
    store : str
        Its UUID.
    generation : int
        The newest.
    degraded : bool
        Whether a root is missing or damaged, or the newest record is on fewer than a majority.
    roots : dict of str to str
        Each root's path, and ``ok`` or what is wrong with it.
    in_doubt : tuple of int
        Generations whose records are on fewer than a majority of the roots, as far as can be seen;
        the next writer decides.
    free_bytes : dict of str to int
        Space for new shards on each root that can be reached.
    """

    store: str
    generation: int
    degraded: bool
    roots: dict[str, str]
    in_doubt: tuple[int, ...]
    free_bytes: dict[str, int]

    def __str__(self) -> str:
        lines = [self._head()]
        for path, state in self.roots.items():
            free = self.free_bytes.get(path)
            lines.append(f"  {path}: {state}" + (f", {free / 1e9:.1f} GB free" if free else ""))
        if self.in_doubt:
            doubts = listed(self.in_doubt, _IN_DOUBT_SHOWN_MAX)
            lines.append(f"  in doubt: {', '.join(doubts)}")
        return "\n".join(lines)

    @one_line
    def __repr__(self) -> str:
        return f"<fastio.store.Status: {self._head()}, {counted(len(self.roots), 'root')}>"

    def _repr_html_(self) -> str:
        rows = [
            (path, state, size(self.free_bytes[path]) if path in self.free_bytes else "")
            for path, state in self.roots.items()
        ]
        return notebook.table(self._head(), ("root", "state", "free"), rows, 0)

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
    if not standings:  # there is one from when it was created
        raise ReplicaError(members.name, "no root has a sound commit record", members.missing)
    for standing in standings:
        record = standing.record
        if record.generation:  # the first one is the empty store
            manifest = members.manifest(record).manifest
            tensors = len(reading.names(manifest, members.name))
            nbytes = sum(entry.nbytes - entry.start for entry in manifest.shards)
            found.append(
                Generation(record.generation, tensors, nbytes, record.saved_at_s, standing.decided)
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
    found = members.standings()
    newest = members.take(None, None)
    newest.held.close()
    lacking = wholeness.lacking(newest.named.manifest, members.roots)
    roots, free = dict(members.missing), {}
    for root in members.roots.values():
        bad = lacking.get(root.uuid)
        problems = [*root.problems]
        if bad:
            problems.append(f"{len(bad)} shards are missing or of another size: {bad[0]}")
        roots[str(root.path)] = "; ".join(problems) or "ok"
        space = root.space()
        if space is not None:
            free[str(root.path)] = space[0]
    return Status(
        store=members.store,
        generation=newest.generation,
        degraded=not newest.standing.decided or any(state != "ok" for state in roots.values()),
        roots=dict(sorted(roots.items())),
        in_doubt=tuple(one.record.generation for one in found if not one.decided),
        free_bytes=free,
    )
