"""Named schedules of the protocol: some of them once lost data."""

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from fastio.errors import ConflictError, FastioError, ReplicaError, StaleError
from fastio.store.commit import Session
from fastio.store.documents import Promise, Record, RootIdentity
from fastio.store.history import standings
from fastio.store.members import Members
from fastio.store.root import Root
from fastio.store.status import status
from store.dying import Steps
from store.protocol import World


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    return Steps(monkeypatch)


@pytest.fixture
def world(steps: Steps) -> Iterator[World]:
    made = World(3, steps)
    yield made
    made.close()


def _die_with_records_on(world: World, payload: str, count: int) -> None:
    """A writer dies when his record is on that many roots."""
    before = len(_holders(world, max(world.told.reported) + 1))
    for after in range(1000):
        world.commit(payload, dying_after=after)
        if len(_holders(world, max(world.told.reported) + 1)) == before + count:
            return
    raise AssertionError("no step leaves that many records")


def _holders(world: World, generation: int) -> list[int]:
    found = []
    for at in world.here():
        root = Root.open(world.paths[at])
        if generation in root.records():
            found.append(at)
        root.close()
    return found


def test_an_unreported_record_does_not_outvote_a_reported_one(
    world: World,
) -> None:
    """A rule by majority of the present roots, and then by the lowest UUID, fails here. The first
    writer's record is on root 0 alone, and root 0 leaves. The second writer commits the same
    generation on roots 1 and 2. Root 0 comes back and root 2 leaves.
    """
    _die_with_records_on(world, "first", 1)
    assert _holders(world, 1) == [0]
    world.lose(0)
    assert world.commit("second") == 1
    world.bring_back(0)
    world.lose(2)
    assert world.seen([0, 1]) == (1, "second")
    world.commit("third")
    world.check()


def test_a_record_in_doubt_is_taken_up_by_the_next_writer(world: World) -> None:
    _die_with_records_on(world, "first", 1)
    assert world.seen([0, 1, 2]) == (1, "first")
    assert world.commit("second") == 2
    assert _holders(world, 1) == [0, 1, 2]
    assert world.seen([1, 2]) == (2, "second")


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


def test_a_generation_in_doubt_is_reported_until_a_writer_decides(world: World) -> None:
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


def test_an_unreported_generation_with_a_lost_manifest_is_passed_over(
    world: World,
) -> None:
    _die_with_records_on(world, "first", 1)
    _, digest = world.newest([0, 1, 2])
    for at in range(3):
        (world.path(at) / "manifests" / f"{digest}.json").unlink()
    world.lose(2)  # it may have the record as well
    with pytest.raises(ReplicaError, match="manifest of generation 1 cannot be read"):
        world.commit("second")
    world.bring_back(2)
    assert world.commit("second") == 1
    assert world.seen([0, 1, 2]) == (1, "second")


def test_a_replayed_backup_is_refused_by_min_generation(world: World) -> None:
    world.back_up(0)
    world.commit("newer")
    world.replay(0)
    members = Members.of([Root.open(world.paths[0])])
    with pytest.raises(StaleError) as caught:
        members.pin(None, 1)
    assert (caught.value.found, caught.value.expected) == (0, 1)
    members.close()


def test_without_a_majority_nothing_is_committed(world: World) -> None:
    world.lose(1)
    world.lose(2)
    with pytest.raises(ReplicaError, match="needs 2 of the 3 roots"):
        world.commit("alone")
    assert world.newest([0])[0] == 0


def test_another_writer_is_waited_for_and_then_named(world: World) -> None:
    roots = [Root.open(path) for path in world.paths]
    refused = pytest.raises(ConflictError, match=r"somebody else is writing.*process \d+ on")
    with Session(world.store, roots, {}, world.told.uuids), refused:
        world.commit("second")
    assert world.commit("third") == 1


def test_a_clock_that_goes_backwards_decides_nothing(world: World) -> None:
    for at, saved_at_s in enumerate((2_000_000_000, 5)):
        world.commit(str(at), saved_at_s=saved_at_s)
    assert world.seen([0, 1, 2]) == (2, "1")


def test_a_ballot_that_was_promised_is_not_used_again(world: World) -> None:
    """The promise of a writer who died before his record counts, too."""
    before = {root: _ballot(world, root) for root in range(3)}
    world.commit("dies", dying_after=6)
    promised = max(_ballot(world, root) for root in range(3))
    assert promised > max(before.values())
    world.commit("lives")
    roots = [Root.open(path) for path in world.paths]
    assert all(root.records()[1].ballot > promised for root in roots)


def _ballot(world: World, at: int) -> int:
    root = Root.open(world.paths[at])
    try:
        return root.promised()
    finally:
        root.close()


@pytest.mark.parametrize("kind", ["record", "identity", "promise"])
def test_a_document_with_any_byte_changed_is_refused(world: World, kind: str) -> None:
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
