"""Watch: tells of the damage that is found in the replicas of a source, and has it repaired.

The core reads from all replicas at once, and where one fails from the next one.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import fastio._native as _native
from fastio.catalog import Shard, ShardFiles
from fastio.errors import FastioError, ReplicaError
from fastio.report.events import Event, emit

_log = logging.getLogger("fastio")
_FILES_LOGGED_MAX = 8  # of one folder; a root that is empty lacks every shard
_TENSORS_MAX = 8  # that an event names of a file that is not there
_Range = tuple[int, int]  # [begin, end) in bytes

OnDamage = Literal["continue", "repair", "raise"]
ON_DAMAGE = ("continue", "repair", "raise")
_REMEDIES = {
    "read_again": "read again past the page cache",
    "other_replica": "taken from another replica",
    "none": "no replica was left",
}


Repair = Callable[["Watch", ShardFiles, str], None]
"""Writes the replica of that path anew, from the others."""


class Watch:
    """Watches over the replicas of one source: repairs them if asked to, and tells of bad ones.

    Each bad file is one event when damage is found in it. `sum_up` tells of it again if more was
    found since.

    Parameters
    ----------
    on_damage : {"continue", "repair", "raise"}
    repair : callable or None
        Called once for each bad replica.

    Attributes
    ----------
    hung_paths : set of str
        Replicas whose disk did not answer. They are not repaired.
    timeout_s : float
        How long a replica is waited for when it is opened.
    """

    def __init__(
        self, on_damage: OnDamage, repair: Repair | None = None, timeout_s: float = math.inf
    ) -> None:
        self.on_damage = on_damage
        self.repair = repair
        self.timeout_s = timeout_s
        self._lock = threading.RLock()  # a signal handler may read, too
        self._happened: list[Event | BadReplica] = []
        self._bad: dict[str, BadReplica] = {}
        self._repaired: set[str] = set()
        self.hung_paths: set[str] = set()
        self._logged: dict[tuple[str, str], int] = {}  # by folder and kind: files told of

    def events(self) -> tuple[Event, ...]:
        """Return what happened until now: of each bad replica one event."""
        with self._lock:
            return tuple(
                each.event() if isinstance(each, BadReplica) else each for each in self._happened
            )

    def tell(self, event: Event) -> None:
        """Note what happened, and tell whoever listens."""
        with self._lock:
            self._happened.append(event)
            logged = self._is_to_be_logged(event)
        emit(event, logged=logged)

    def lacks(self, files: ShardFiles, tensors: Sequence[str]) -> None:
        """Note the replicas that a shard lacks."""
        remedy = "taken from another replica" if files.replicas else "no replica was left"
        for path, reason in files.lacking.items():
            with self._lock:
                found = self._bad_replica(path)
                found.add(None, reason, remedy)
                found.tensors.update(dict.fromkeys(tensors[:_TENSORS_MAX]))
            self._told(files, path, reason, mends=True)

    def note(self, shards: Iterable[Shard], incidents: Sequence[_native.Incident]) -> None:
        """Note the incidents of a job, and repair the files if that is asked for."""
        if not incidents:
            return
        of_path = {file.path: shard for shard in shards for file in shard.files.replicas}
        by_path: dict[str, list[_native.Incident]] = {}
        for incident in incidents:
            by_path.setdefault(incident["path"], []).append(incident)
        for path, of_file in by_path.items():
            shard = of_path[path]
            with self._lock:
                found = self._bad_replica(path)
                if shard.table is not None:
                    found.chunk_bytes = shard.table.chunk_bytes
                for incident in of_file:
                    extent = incident["offset"], incident["offset"] + incident["nbytes"]
                    found.add(extent, incident["detail"], _REMEDIES[incident["remedy"]])
                for begin, end in found.new_ranges():
                    found.tensors.update(dict.fromkeys(shard.names_within(begin, end - begin)))
            self._note_hung(path, of_file)
            mends = any(incident["remedy"] != "read_again" for incident in of_file)
            self._told(shard.files, path, of_file[0]["detail"], mends=mends)

    def _note_hung(self, path: str, incidents: Sequence[_native.Incident]) -> None:
        if any(each["errno"] == errno.ETIMEDOUT for each in incidents):
            self.hung_paths.add(path)

    def sum_up(self) -> None:
        """Tell of bad replicas what was found since they were told of: a load has ended.

        Raises
        ------
        Nothing.
        """
        with self._lock:
            grown = [each for each in self._bad.values() if each.is_told and each.has_grown]
            events = [(each.event(), each.is_logged) for each in grown]
            for each in grown:
                each.has_grown = False
            unlogged = {
                group: count - _FILES_LOGGED_MAX
                for group, count in self._logged.items()
                if count > _FILES_LOGGED_MAX
            }
            self._logged.update(dict.fromkeys(unlogged, _FILES_LOGGED_MAX))
        for event, logged in events:
            emit(event, logged=logged)
        for (folder, kind), count in unlogged.items():
            _log.warning("%s: a %s of %d more files; the report has them all", folder, kind, count)

    def _bad_replica(self, path: str) -> BadReplica:
        found = self._bad.get(path)
        if found is None:
            found = self._bad[path] = BadReplica(path)
            self._happened.append(found)
        return found

    def _is_to_be_logged(self, event: Event) -> bool:
        group = os.path.dirname(event.path), event.kind
        self._logged[group] = self._logged.get(group, 0) + 1
        return self._logged[group] <= _FILES_LOGGED_MAX

    def _told(self, files: ShardFiles, path: str, cause: str, *, mends: bool) -> None:
        """Tell of a bad replica, the first time; and repair it, if that is asked for."""
        event = None
        with self._lock:
            found = self._bad[path]
            if not found.is_told:
                event = found.event()
                found.is_told, found.has_grown = True, False
                found.is_logged = self._is_to_be_logged(event)
            mends = (
                mends
                and self.on_damage == "repair"
                and self.repair is not None
                and bool(files.replicas)
                and path not in self._repaired
                and path not in self.hung_paths
            )
            if mends:
                self._repaired.add(path)
        if event is not None:
            emit(event, logged=found.is_logged)
        if mends:
            self._mend(files, path, cause)

    def _mend(self, files: ShardFiles, path: str, cause: str) -> None:
        assert self.repair is not None
        try:
            self.repair(self, files, path)
        except (FastioError, OSError) as error:
            done = Event("failure", path, cause, f"could not be repaired: {error}")
        else:
            done = Event("repair", path, cause, "written anew from the other replicas")
        self.tell(done)

    def exhausted(self, shard: Shard, offset: int | None, nbytes: int, source: str) -> ReplicaError:
        """Return the error for bytes that no replica has: each one with its reason."""
        reasons = dict(shard.files.lacking)
        with self._lock:
            for file in shard.files.replicas:
                found = self._bad.get(file.path)
                reason = None if found is None else found.reason(offset, nbytes)
                if reason is not None:
                    reasons[file.path] = reason
        tensors = () if offset is None else shard.names_within(offset, nbytes)
        at = "" if offset is None else f" at byte {offset}"
        problem = f"no replica of a shard could be read{at}"
        first = shard.files.replicas[0].path
        return ReplicaError(source, problem, reasons, tensors, first, offset)


def is_persistent(watch: Watch | None) -> bool:
    """Return whether a failure is followed by another try, of the same replica or another one."""
    return watch is not None and watch.on_damage != "raise"


class BadReplica:
    """The failures of one replica, each of them once: damage is read twice."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.chunk_bytes: int | None = None
        self.tensors: dict[str, None] = {}
        self.is_told = self.is_logged = self.has_grown = False
        self._remedies: dict[tuple[_Range | None, str], str] = {}  # remedy by range and cause
        self._new: list[_Range] = []

    def add(self, extent: _Range | None, cause: str, remedy: str) -> None:
        if (extent, cause) not in self._remedies:
            self.has_grown = True
            if extent is not None:
                self._new.append(extent)
        self._remedies[extent, cause] = remedy

    def new_ranges(self) -> list[_Range]:
        """The additions since the last call."""
        new, self._new = self._new, []
        return _joined(new)

    def event(self) -> Event:
        remedy = ", or ".join(dict.fromkeys(self._remedies.values()))
        for extent, cause in self._remedies:
            if extent is None:
                return Event("fallback", self.path, cause, remedy, tensors=tuple(self.tensors))
        ranges = _joined(extent for extent, _ in self._remedies if extent is not None)
        count = sum(-(-(end - begin) // (self.chunk_bytes or end)) for begin, end in ranges)
        cause = min(self._remedies, key=lambda found: found[0] or ranges[0])[1]
        return Event(
            "fallback",
            self.path,
            cause if count == 1 else f"{cause} in the first one",
            remedy,
            ranges[0][0],
            sum(end - begin for begin, end in ranges),
            tuple(self.tensors),
            count,
            tuple(ranges),
        )

    def reason(self, offset: int | None, nbytes: int) -> str | None:
        """The last thing that was wrong with some bytes."""
        found = None
        for extent, cause in self._remedies:
            if offset is None or extent is None:
                found = cause
            elif extent[0] < offset + max(nbytes, 1) and offset < extent[1]:
                found = f"{cause} at byte {extent[0]}"
        return found


def _joined(extents: Iterable[_Range]) -> list[_Range]:
    """Ranges ascending; those that touch each other are one."""
    joined: list[_Range] = []
    for begin, end in sorted(extents):
        if joined and begin <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(joined[-1][1], end)
        else:
            joined.append((begin, end))
    return joined
