"""The commit: what was reported stays while a majority lives, and readers see whole generations
only, wherever writers crash and whichever roots come and go.
"""

import itertools
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from fastio.errors import ConflictError, FastioError, ReplicaError, StaleError
from fastio.store.commit import Session
from fastio.store.documents import Promise, Record, RootIdentity
from fastio.store.history import standings
from fastio.store.manifest import Manifest, Named, RootEntry, Settings, encode
from fastio.store.members import Members
from fastio.store.root import Root
from fastio.store.status import status

_MEMORY = Path("/dev/shm") if Path("/dev/shm").is_dir() else None


class _Crash(BaseException):
    """The writer dies here."""


class _Steps:
    """Counts what a writer does to roots, and lets it die at one of these steps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left: int | None = None
        put, record = Root.put, Root.put_record

        def counted(call: Callable[..., None]) -> Callable[..., None]:
            def run(*arguments: object, **options: object) -> None:
                self._step()
                call(*arguments, **options)
                self._step()

            return run

        monkeypatch.setattr(Root, "put", counted(put))
        monkeypatch.setattr(Root, "put_record", counted(record))

    def _step(self) -> None:
        if self.left is None:
            return
        if self.left == 0:
            raise _Crash
        self.left -= 1

    @contextmanager
    def dying_after(self, steps: int | None) -> Iterator[None]:
        self.left = steps
        try:
            yield
        finally:
            self.left = None


class _World:
    """Roots, some of which are away, and what was reported of commits."""

    def __init__(self, count: int, steps: _Steps) -> None:
        self.steps = steps
        self.folder = Path(mkdtemp(dir=_MEMORY, prefix="fastio-protocol-"))
        self.store = uuid.UUID(int=1).hex
        self.uuids = [uuid.UUID(int=100 + at).hex for at in range(count)]
        self.paths = [self.folder / f"root{at}" for at in range(count)]
        self.away: set[int] = set()
        self.stale: set[int] = set()
        self.reported: dict[int, str] = {}
        self.proposed: set[str] = set()
        for path, one in zip(self.paths, self.uuids, strict=True):
            Root.create(path, RootIdentity(self.store, one, 1.0)).close()
        self.commit("created")

    @property
    def majority(self) -> int:
        return len(self.paths) // 2 + 1

    def here(self) -> list[int]:
        return [at for at in range(len(self.paths)) if at not in self.away]

    def named(self, payload: str) -> Named:
        return encode(
            Manifest(
                store=self.store,
                roots=tuple(
                    RootEntry(one, 1.0, str(path))
                    for one, path in zip(self.uuids, self.paths, strict=True)
                ),
                shards=(),
                cuts={},
                metadata={"payload": payload},
                settings=Settings(1, None, 2**20, "size", "rendezvous", (), 0o600),
            )
        )

    def commit(self, payload: str, dying_after: int | None = None) -> int | None:
        """What a writer reports; None where he dies."""
        named = self.named(payload)
        self.proposed.add(named.digest)
        at = self.here()
        roots = [Root.open(self.paths[one]) for one in at]
        try:
            with (
                self.steps.dying_after(dying_after),
                Session(self.store, roots, {}, self.uuids, wait_s=0) as session,
            ):
                record = session.commit(named, 0)
        except _Crash:
            return None
        finally:
            for root in roots:
                root.close()
        self.reported[record.generation] = named.digest
        self.stale -= set(at)
        return record.generation

    def newest(self, at: list[int]) -> tuple[int, str]:
        members = Members.of([Root.open(self.paths[one]) for one in at])
        try:
            taken = members.take(None, None)
            taken.held.close()
            return taken.generation, taken.named.digest
        finally:
            members.close()

    def lose(self, at: int) -> None:
        self.paths[at].rename(self.folder / f"away{at}")
        self.away.add(at)

    def bring_back(self, at: int) -> None:
        (self.folder / f"away{at}").rename(self.paths[at])
        self.away.discard(at)

    def back_up(self, at: int) -> None:
        copy = self.folder / f"backup{at}"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.paths[at], copy)

    def replay(self, at: int) -> None:
        copy = self.folder / f"backup{at}"
        if copy.is_dir():
            shutil.rmtree(self.paths[at])
            shutil.copytree(copy, self.paths[at])
            self.stale.add(at)

    def check(self) -> None:
        here = self.here()
        trusted = [at for at in here if at not in self.stale]
        for count in range(1, len(here) + 1):
            for chosen in itertools.combinations(here, count):
                seen = self.newest(list(chosen))
                assert seen == self.newest(list(reversed(chosen)))
                assert seen[1] in self.proposed, "something that nobody has written"
                if len(set(chosen) & set(trusted)) >= self.majority:
                    self._check_reported(list(chosen), *seen)

    def _check_reported(self, at: list[int], newest: int, digest: str) -> None:
        last = max(self.reported)
        assert newest >= last, "a reported commit was lost"
        roots = {root.uuid: root for root in (Root.open(self.paths[one]) for one in at)}
        stand = {
            one.record.generation: one.record.manifest
            for one in standings({name: root.records() for name, root in roots.items()})
        }
        for root in roots.values():
            root.close()
        for generation, reported in self.reported.items():
            assert stand[generation] == reported, "a reported commit was replaced"

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


class Protocol(RuleBasedStateMachine):
    """Writers that crash at any step; roots that go, come back, or are old backups."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.steps = _Steps(self.patch)
        self.serial = 0

    @initialize(count=st.sampled_from([1, 2, 3, 3, 4, 5]))
    def create(self, count: int) -> None:
        self.world = _World(count, self.steps)

    def _payload(self) -> str:
        self.serial += 1
        return f"save {self.serial}"

    def _may_write(self) -> bool:
        trusted = set(self.world.here()) - self.world.stale
        return len(trusted) >= self.world.majority

    @precondition(lambda self: self._may_write())
    @rule()
    def save(self) -> None:
        assert self.world.commit(self._payload()) is not None

    @precondition(lambda self: self._may_write())
    @rule(steps=st.integers(0, 24))
    def crash(self, steps: int) -> None:
        self.world.commit(self._payload(), dying_after=steps)

    @precondition(lambda self: len(self.world.here()) < self.world.majority)
    @rule()
    def refuse_without_a_majority(self) -> None:
        if self.world.here():
            with pytest.raises(ReplicaError):
                self.world.commit(self._payload())

    @rule(at=st.integers(0, 4))
    def lose(self, at: int) -> None:
        if at in self.world.here() and len(self.world.here()) > 1:
            self.world.lose(at)

    @rule(at=st.integers(0, 4))
    def bring_back(self, at: int) -> None:
        if at in self.world.away:
            self.world.bring_back(at)

    @rule(at=st.integers(0, 4))
    def back_up(self, at: int) -> None:
        if at in self.world.here() and at not in self.world.stale:
            self.world.back_up(at)

    @rule(at=st.integers(0, 4))
    def replay(self, at: int) -> None:
        others = set(self.world.here()) - self.world.stale - {at}
        if at in self.world.here() and len(others) >= self.world.majority:
            self.world.replay(at)

    @invariant()
    def nothing_is_lost(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self) -> None:
        self.patch.undo()
        if hasattr(self, "world"):
            self.world.close()


TestProtocol = Protocol.TestCase
TestProtocol.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> _Steps:
    return _Steps(monkeypatch)


@pytest.fixture
def world(steps: _Steps) -> Iterator[_World]:
    made = _World(3, steps)
    yield made
    made.close()


def _die_with_records_on(world: _World, payload: str, count: int) -> None:
    """A writer dies when his record stands on so many roots."""
    before = len(_holders(world, max(world.reported) + 1))
    for after in range(1000):
        world.commit(payload, dying_after=after)
        if len(_holders(world, max(world.reported) + 1)) == before + count:
            return
    raise AssertionError("no step leaves that many records")


def _holders(world: _World, generation: int) -> list[int]:
    found = []
    for at in world.here():
        root = Root.open(world.paths[at])
        if generation in root.records():
            found.append(at)
        root.close()
    return found


def test_a_record_that_nobody_was_told_of_does_not_outvote_one_that_was_reported(
    world: _World,
) -> None:
    """The schedule that a rule by majority of the roots at hand, and then by the lowest UUID, gets
    wrong: the first writer's record is on root 0 alone, root 0 goes away, the second writer commits
    the same generation on roots 1 and 2, root 0 comes back and root 2 goes.
    """
    _die_with_records_on(world, "first", 1)
    assert _holders(world, 1) == [0]
    world.lose(0)
    assert world.commit("second") == 1
    world.bring_back(0)
    world.lose(2)
    assert world.newest([0, 1]) == (1, world.named("second").digest)
    world.commit("third")
    world.check()


def test_a_record_in_doubt_is_taken_up_by_the_next_writer(world: _World) -> None:
    _die_with_records_on(world, "first", 1)
    assert world.newest([0, 1, 2]) == (1, world.named("first").digest)
    assert world.commit("second") == 2
    assert _holders(world, 1) == [0, 1, 2]
    assert world.newest([1, 2]) == (2, world.named("second").digest)


@pytest.mark.parametrize(("count", "majority"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3)])
def test_a_generation_is_decided_by_more_than_half_of_the_roots(count: int, majority: int) -> None:
    roots = tuple(uuid.UUID(int=at + 1).hex for at in range(count))
    record = Record(uuid.UUID(int=9).hex, 1, 1, "0" * 64, None, roots, 0)
    assert record.majority == majority
    for asked in range(1, count + 1):
        for held in range(1, asked + 1):
            (standing,) = standings(
                {root: {1: record} if at < held else {} for at, root in enumerate(roots[:asked])}
            )
            assert standing.decided == (held >= majority)
            assert standing.never_reported == (held + count - asked < majority)


def test_what_is_in_doubt_is_said_until_a_writer_decides(world: _World) -> None:
    def in_doubt() -> tuple[bool, tuple[int, ...]]:
        members = Members.of([Root.open(path) for path in world.paths])
        try:
            seen = status(members)
            return seen.degraded, seen.in_doubt
        finally:
            members.close()

    assert in_doubt() == (False, ())
    _die_with_records_on(world, "first", 1)
    assert in_doubt() == (True, (1,))
    _die_with_records_on(world, "second", 1)
    assert in_doubt() == (True, ())  # decided, and one root lags
    world.commit("third")
    assert in_doubt() == (False, ())


def test_a_generation_whose_manifest_is_lost_is_passed_over_if_nobody_was_told_of_it(
    world: _World,
) -> None:
    _die_with_records_on(world, "first", 1)
    for at in range(3):
        for manifest in (world.paths[at] / "manifests").glob(f"*{world.named('first').digest}*"):
            manifest.unlink()
    world.lose(2)  # it may have the record as well
    with pytest.raises(ReplicaError, match="generation 1 may have been committed"):
        world.commit("second")
    world.bring_back(2)
    assert world.commit("second") == 1
    assert world.newest([0, 1, 2]) == (1, world.named("second").digest)


def test_a_replayed_backup_is_refused_by_min_generation(world: _World) -> None:
    world.back_up(0)
    world.commit("newer")
    world.replay(0)
    members = Members.of([Root.open(world.paths[0])])
    with pytest.raises(StaleError) as caught:
        members.take(None, 1)
    assert (caught.value.found, caught.value.expected) == (0, 1)
    members.close()


def test_without_a_majority_nothing_is_committed(world: _World) -> None:
    world.lose(1)
    world.lose(2)
    with pytest.raises(ReplicaError, match="needs 2 of the 3 roots"):
        world.commit("alone")
    assert world.newest([0])[0] == 0


def test_another_writer_is_waited_for_and_then_named(world: _World) -> None:
    roots = [Root.open(path) for path in world.paths]
    refused = pytest.raises(ConflictError, match=r"somebody else is writing.*process \d+ on")
    with Session(world.store, roots, {}, world.uuids), refused:
        world.commit("second")
    assert world.commit("third") == 1


def test_a_clock_that_goes_backwards_decides_nothing(world: _World) -> None:
    roots = [Root.open(path) for path in world.paths]
    for at, saved_at_s in enumerate((2_000_000_000, 5)):
        with Session(world.store, roots, {}, world.uuids) as session:
            session.commit(world.named(str(at)), saved_at_s)
    assert world.newest([0, 1, 2]) == (2, world.named("1").digest)


def test_a_ballot_that_was_promised_is_not_used_again(world: _World) -> None:
    """The promise of a writer who died before his record counts, too."""
    before = {root: _ballot(world, root) for root in range(3)}
    world.commit("dies", dying_after=6)
    promised = max(_ballot(world, root) for root in range(3))
    assert promised > max(before.values())
    world.commit("lives")
    roots = [Root.open(path) for path in world.paths]
    assert all(root.records()[1].ballot > promised for root in roots)


def _ballot(world: _World, at: int) -> int:
    root = Root.open(world.paths[at])
    try:
        return root.promised()
    finally:
        root.close()


@pytest.mark.parametrize("kind", ["record", "identity", "promise"])
def test_a_document_with_any_byte_changed_is_refused(world: _World, kind: str) -> None:
    world.commit("one")
    root = Root.open(world.paths[0])
    record = root.records()[1]
    data = {
        "record": record.encode(),
        "identity": root.identity.encode(),
        "promise": (world.paths[0] / "promise").read_bytes(),
    }[kind]
    known: Any = {"record": Record, "identity": RootIdentity, "promise": Promise}[kind]
    assert known.decode(data, "path").encode() == data
    for at in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[at] ^= 1 << bit
            with pytest.raises(FastioError):
                known.decode(bytes(flipped), "path")
    for cut in range(len(data)):
        with pytest.raises(FastioError):
            known.decode(data[:cut], "path")
