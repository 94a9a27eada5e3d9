"""Copies of a shard: which ones there are, what was met in them, and what is done about it.

The core reads from all copies at once, and where one fails from the next one. Here it is told,
counted, and repaired.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from fastio import _native
from fastio.catalog import Shard
from fastio.errors import FastioError, ReplicaError
from fastio.events import Event, emit

OnDamage = Literal["continue", "repair", "raise"]
ON_DAMAGE = ("continue", "repair", "raise")
_REMEDIES = {
    "read_again": "read again past the page cache",
    "other_copy": "taken from another copy",
    "none": "no copy was left",
}


@dataclass(frozen=True, eq=False)
class Copies:
    """The copies of one shard.

    Attributes
    ----------
    files : tuple of _native.File
        Those that could be opened, the preferred one first.
    lacking : dict of str to str
        Paths of those that could not, and why.
    watch : Watch
    start : int
        Of the header, in bytes.
    digest : str
        SHA-256 of it, 64 hex digits.
    """

    files: tuple[_native.File, ...]
    lacking: Mapping[str, str]
    watch: Watch
    start: int
    digest: str


Repair = Callable[[Copies, str], None]
"""Writes the copy of that path anew, from the others."""


@dataclass
class Watch:
    """What is done about copies that fail, and what was done, for one source.

    Attributes
    ----------
    on_damage : {"continue", "repair", "raise"}
    repair : callable or None
        Called once for each bad copy.
    """

    on_damage: OnDamage
    repair: Repair | None = None
    _events: list[Event] = field(default_factory=list)
    _repaired: set[str] = field(default_factory=set)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def persistent(self) -> bool:
        """Whether a failure is followed by another try."""
        return self.on_damage != "raise"

    def events(self) -> tuple[Event, ...]:
        """Return what happened until now."""
        with self._lock:
            return tuple(self._events)

    def tell(self, event: Event) -> None:
        """Note what happened, and tell whoever listens."""
        with self._lock:
            self._events.append(event)
        emit(event)

    def lacks(self, copies: Copies, tensors: Sequence[str]) -> None:
        """Note the copies that a shard lacks."""
        remedy = "taken from another copy" if copies.files else "no copy was left"
        for path, reason in copies.lacking.items():
            self._note(copies, Event("fallback", path, reason, remedy, tensors=tuple(tensors[:8])))

    def note(self, shards: Iterable[Shard], incidents: Sequence[_native.Incident]) -> None:
        """Note what a job has met, and repair it if that is asked for."""
        of_path = {
            file.path: shard
            for shard in (shards if incidents else ())
            if shard.has_copies and isinstance(shard.copies, Copies)
            for file in shard.copies.files
        }
        for incident in incidents:
            shard = of_path[incident["path"]]
            offset, nbytes = incident["offset"], incident["nbytes"]
            assert isinstance(shard.copies, Copies)
            self._note(
                shard.copies,
                Event(
                    "fallback",
                    incident["path"],
                    incident["detail"],
                    _REMEDIES[incident["remedy"]],
                    offset,
                    nbytes,
                    shard.names_within(offset, nbytes),
                ),
                mends=incident["remedy"] != "read_again",
            )

    def _note(self, copies: Copies, event: Event, *, mends: bool = True) -> None:
        with self._lock:
            if event in self._events:  # read again, and still so
                return
            self._events.append(event)
            mends = (
                mends
                and self.on_damage == "repair"
                and self.repair is not None
                and bool(copies.files)
                and event.path not in self._repaired
            )
            if mends:
                self._repaired.add(event.path)
        emit(event)
        if mends:
            self._mend(copies, event)

    def _mend(self, copies: Copies, event: Event) -> None:
        assert self.repair is not None
        try:
            self.repair(copies, event.path)
        except (FastioError, OSError) as error:
            done = Event("failure", event.path, event.cause, f"could not be repaired: {error}")
        else:
            done = Event("repair", event.path, event.cause, "written anew from the other copies")
        self.tell(done)

    def exhausted(self, shard: Shard, offset: int | None, nbytes: int, source: str) -> ReplicaError:
        """Return the error for bytes that no copy has: each one with its reason."""
        assert isinstance(shard.copies, Copies)
        reasons = dict(shard.copies.lacking)
        for event in self.events():
            of_shard = any(event.path == file.path for file in shard.copies.files)
            if of_shard and _overlap(event, offset, nbytes):
                at = "" if event.offset is None else f" at byte {event.offset}"
                reasons[event.path] = event.cause + at
        tensors = () if offset is None else shard.names_within(offset, nbytes)
        at = "" if offset is None else f" at byte {offset}"
        problem = f"no copy of a shard could be read{at}"
        first = shard.copies.files[0].path
        return ReplicaError(source, problem, reasons, tensors, first, offset)


def _overlap(event: Event, offset: int | None, nbytes: int) -> bool:
    if offset is None or event.offset is None or event.nbytes is None:
        return True
    return event.offset < offset + max(nbytes, 1) and offset < event.offset + event.nbytes


def watch_of(shards: Iterable[Shard]) -> Watch | None:
    """Return who watches over the copies of these shards; None where they have no copies.

    Raises
    ------
    Nothing.
    """
    for shard in shards:
        if shard.has_copies:
            assert isinstance(shard.copies, Copies)
            return shard.copies.watch
    return None
