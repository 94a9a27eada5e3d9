"""The commit: reported generations survive while a majority lives, and readers see whole
generations only. Writers crash anywhere, and any roots come and go.
"""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from fastio.errors import ConflictError, FastioError, ReplicaError, UsageError
from fastio.store.members import Members
from store.dying import STEPS_MOST, Steps
from store.protocol import World
from store.told import Reader

_ROOTS_MORE_MOST = 2  # the spares for replacements in one life of a store
_READERS_MOST = 3
_roots = st.integers(0, 6)


class Protocol(RuleBasedStateMachine):
    """Writers that die at any step. Roots that leave, come back, are old backups, or are replaced.
    Readers that keep their generation, collectors that remove the rest, and copies of the store.
    """

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.steps = Steps(self.patch)
        self.serial = 0
        self.readers: list[Reader] = []
        self.has_changed = True

    @initialize(count=st.sampled_from([1, 2, 2, 3, 3, 3, 4]))
    def create(self, count: int) -> None:
        self.world = World(count, self.steps)
        self.count_most = count + _ROOTS_MORE_MOST

    def _payload(self) -> str:
        self.serial += 1
        self.has_changed = True
        return f"save {self.serial}"

    def _may_be_refused(self, world: World) -> bool:
        """Whether a majority of other roots may be needed, because a replacement began."""
        return world.told.in_doubt and bool(world.told.away)

    def _is_expected(self, error: FastioError) -> bool:
        """Whether a root cannot be replaced: no replica is left, or another call has begun to."""
        refused = isinstance(error, ReplicaError) and self._may_be_refused(self.world)
        replaced = isinstance(error, UsageError) and self.world.told.in_doubt
        return refused or replaced or "no copy is left" in str(error)

    # ---- writers

    @precondition(lambda self: self.world.may_write())
    @rule(replicas=st.integers(1, 2), reuses=st.booleans())
    def save(self, replicas: int, reuses: bool) -> None:
        try:
            saved = self.world.commit(self._payload(), replicas=replicas, reuses=reuses)
        except ReplicaError:
            assert self._may_be_refused(self.world)
        else:
            assert saved is not None

    @precondition(lambda self: self.world.may_write())
    @rule(steps=st.integers(0, STEPS_MOST), replicas=st.integers(1, 2), reuses=st.booleans())
    def crash(self, steps: int, replicas: int, reuses: bool) -> None:
        try:
            self.world.commit(self._payload(), dying_after=steps, replicas=replicas, reuses=reuses)
        except ReplicaError:
            assert self._may_be_refused(self.world)

    @precondition(lambda self: len(self.world.seats(self.world.here())) < self.world.majority)
    @rule()
    def refuse_without_a_majority(self) -> None:
        if not self.world.told.in_doubt:
            with pytest.raises(ReplicaError):
                self.world.commit(self._payload())

    @precondition(lambda self: self.world.may_write())
    @rule(keep=st.integers(1, 3), steps=st.none() | st.integers(0, STEPS_MOST))
    def collect(self, keep: int, steps: int | None) -> None:
        before = self.world.whole()
        self.has_changed = True
        try:
            self.world.collect(keep, dying_after=steps)
        except ReplicaError:
            assert self._may_be_refused(self.world)
        after = self.world.whole()
        assert not before or before.keys() & after.keys(), "the last whole generation is gone"

    # ---- roots

    @rule(at=_roots)
    def lose(self, at: int) -> None:
        if at in self.world.here() and len(self.world.here()) > 1:
            self.world.lose(at)
            self.has_changed = True

    @rule(at=_roots)
    def bring_back(self, at: int) -> None:
        if at in self.world.told.away:
            self.world.bring_back(at)
            self.has_changed = True

    @rule(at=_roots)
    def back_up(self, at: int) -> None:
        world = self.world
        if at in world.here() and at not in world.told.stale | world.told.forgetful:
            world.back_up(at)

    @rule(at=_roots)
    def replay(self, at: int) -> None:
        """Also after a crash: the backup has every reported commit, but none in doubt."""
        world = self.world
        if at not in world.here() or at not in world.told.backed_up:
            return
        others = [one for one in world.trusted() if one != at]
        if len(others) >= world.majority or world.has_fresh_backup(at):
            for reader in self.readers:
                reader.forget(at)
            world.replay(at)
            self.has_changed = True

    def _may_replace(self) -> bool:
        world = self.world
        return len(world.told.uuids) < self.count_most and not world.told.forgetful

    @precondition(lambda self: self._may_replace() and self.world.may_write())
    @rule(at=_roots, steps=st.none() | st.integers(0, STEPS_MOST))
    def replace(self, at: int, steps: int | None) -> None:
        world = self.world
        if at not in world.seats(range(len(world.told.uuids))):
            return
        try:
            self.has_changed = True
            world.replace(at, dying_after=steps)
        except FastioError as error:
            if not self._is_expected(error):
                raise

    @precondition(lambda self: self._may_replace() and not self.world.may_write())
    @rule(at=_roots, steps=st.none() | st.integers(0, STEPS_MOST))
    def replace_by_force(self, at: int, steps: int | None) -> None:
        """A majority is lost for good, and the other roots have all of its records."""
        world = self.world
        seats = world.seats(range(len(world.told.uuids)))
        enough = 0 < len(world.trusted()) >= len(seats) // 2
        known = max(one.record.generation for one in world.standings())
        if at not in seats or at not in world.told.away or world.told.stale or not enough:
            return
        if world.nothing_newer_is_away() and known >= max(world.told.reported):
            try:
                self.has_changed = True
                world.replace(at, dying_after=steps, forced=True)
            except FastioError as error:
                if not self._is_expected(error) and not world.told.in_doubt:
                    raise

    # ---- readers

    @rule(chosen=st.sets(_roots, min_size=1), back=st.integers(0, 3))
    def read(self, chosen: set[int], back: int) -> None:
        """A reader takes the newest generation that he sees, or an older one."""
        at = sorted(chosen.intersection(self.world.here()))
        if not at or len(self.readers) == _READERS_MOST:
            return
        try:
            newest = self.world.newest(at)[0]
            reader = Reader(self.world.paths, at, newest - back if 0 < back <= newest else None)
        except (ConflictError, ReplicaError):
            return  # there is no whole one
        self.readers.append(reader)

    @precondition(lambda self: self.readers)
    @rule(at=st.integers(0, _READERS_MOST - 1))
    def let_go(self, at: int) -> None:
        self.readers.pop(at % len(self.readers)).close()

    # ---- copies

    @precondition(lambda self: self.world.may_write())
    @rule(by=_roots)
    def copy(self, by: int) -> None:
        """Each goes on by itself, opened by one of its roots; then the copy is discarded."""
        original, copy = self.world, self.world.copied()
        for writes, other in ((copy, original), (original, copy)):
            before = other.bytes_there()
            at = writes.trusted()[by % len(writes.trusted())]
            for given in ([at], writes.here()):
                members = Members([writes.path(one) for one in given])
                assert {root.path.parent for root in members.roots.values()} == {writes.folder}
                members.close()
                try:
                    writes.commit(self._payload(), given=given)
                except ReplicaError:
                    assert len(given) == 1 or self._may_be_refused(writes)
            assert other.bytes_there() == before, "another store was written to"
            writes.check()

    @invariant()
    def nothing_is_lost(self) -> None:
        if hasattr(self, "world") and self.has_changed:
            self.world.check()
            self.has_changed = False

    @invariant()
    def nothing_that_is_read_is_collected(self) -> None:
        for reader in self.readers:
            reader.check()

    def teardown(self) -> None:
        for reader in self.readers:
            reader.close()
        self.patch.undo()
        if hasattr(self, "world"):
            self.world.close()


TestProtocol = Protocol.TestCase
TestProtocol.settings = settings(
    max_examples=40,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
