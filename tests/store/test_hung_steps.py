"""A root hangs at each call of its thread in turn, for readers and for writers.

The wait for the hanging root is in vain; the time of the others does not matter.
"""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from fastio.errors import FastioError, ReplicaError
from fastio.storage import answering
from fastio.storage.answering import Answering, Call
from fastio.store import collect
from fastio.store.members import Members
from samples import eventually
from store.dying import Steps
from store.protocol import World
from store.told import Reader

_TIMEOUT_S = 0.03
_CALLS_MOST = 300


class Hang:
    """One root's thread stops before its call number `at` until `go_on`. With `for_a_while`, until
    its waiters have given up.
    """

    def __init__(
        self, path: Path, at: int, patch: pytest.MonkeyPatch, *, for_a_while: bool = False
    ) -> None:
        self._path = path
        self._left = itertools.count(at, -1)
        self._go_on = threading.Event()
        self._ended = threading.Event()
        self.is_met = False
        make, of = Call.make, answering.of

        def hanging(call: Call[Any]) -> None:
            if call.answering.path == path and next(self._left) == 0:
                self.is_met = True
                while not self._go_on.wait(0.001 if for_a_while else 60):
                    assert for_a_while
                    if call.answering.is_stuck:
                        break
                make(call)
                self._ended.set()
            else:
                make(call)

        def impatient(path_: Path, timeout_s: float) -> Answering:
            return of(path_, _TIMEOUT_S if path_ == path else timeout_s)

        patch.setattr(Call, "make", hanging)
        patch.setattr(answering, "of", impatient)

    def go_on(self) -> None:
        """Let it make its late call, and wait until it has, and any other that was left."""
        self._go_on.set()
        if self.is_met:
            assert self._ended.wait(60)
        assert eventually(lambda: not answering.is_silent(str(self._path)))


@contextmanager
def _hanging(world: World, root: int, at: int, *, for_a_while: bool = False) -> Iterator[Hang]:
    with pytest.MonkeyPatch.context() as patch:
        hang = Hang(world.path(root), at, patch, for_a_while=for_a_while)
        try:
            yield hang
        finally:
            hang.go_on()


@contextmanager
def _world(patch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(3, Steps(patch))
    try:
        made.commit("first", replicas=2)
        yield made
    finally:
        made.close()


def _at_each_call(
    root: int, do: Callable[[World], None], then: Callable[[World], None] = World.check
) -> None:
    """Use a store while a root hangs, check it, and use it again after the root has answered."""
    for at in range(_CALLS_MOST):
        with pytest.MonkeyPatch.context() as patch, _world(patch) as world:
            with _hanging(world, root, at) as hang:
                do(world)
            world.check()
            then(world)
        if not hang.is_met:
            assert at > 0
            return
    raise AssertionError("there is no end to its calls")


@pytest.mark.parametrize("root", range(3))
def test_readers_see_the_newest_generation_on_the_other_roots(root: int) -> None:
    def read(world: World) -> None:
        members = Members(world.paths)
        pinned = members.pin(None, None)
        assert pinned.generation == 1
        pinned.hold.close()
        members.close()

    _at_each_call(root, read)


def test_a_reader_that_is_given_the_hanging_root_alone_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with (
        _world(monkeypatch) as world,
        _hanging(world, 0, 0),
        pytest.raises(ReplicaError, match="no answer in time"),
    ):
        Members([world.path(0)])


@pytest.mark.parametrize("root", [0, 2])
def test_a_writer_commits_on_the_other_roots_and_the_next_one_on_all(root: int) -> None:
    """The root's late calls, perhaps after the commit, contradict nothing."""

    def save(world: World) -> None:
        assert world.commit("while it hangs", replicas=2) == 2

    def save_on_all(world: World) -> None:
        assert world.commit("afterwards", replicas=2) == 3
        for one in range(3):
            assert world.seen([one]) == (3, "afterwards")

    _at_each_call(root, save, save_on_all)


def test_late_calls_of_a_root_after_two_more_commits_change_nothing() -> None:
    def save_twice(world: World) -> None:
        assert world.commit("while it hangs", replicas=2) == 2
        assert world.commit("and goes on to hang", replicas=2) == 3

    _at_each_call(1, save_twice)


def _collect(world: World) -> None:
    with world.session(None, proposes=False) as (session, _):
        collect.collect(session, 1)
    last = max(world.told.reported)
    world.told.reported = {last: world.told.reported[last]}


def test_the_newest_generation_is_not_collected_while_a_root_hangs() -> None:
    def save_and_collect(world: World) -> None:
        world.commit("second", replicas=2)
        _collect(world)

    _at_each_call(1, save_and_collect)


def test_a_generation_in_use_is_not_collected_on_a_root_that_hangs_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The query of its locks times out, and then the root answers again."""
    for at in range(_CALLS_MOST):
        with _world(monkeypatch) as world:
            reader = Reader(world.paths, [1], None)
            world.commit("second", replicas=2)
            with _hanging(world, 1, at, for_a_while=True) as hang:
                _collect(world)
            reader.check()
            world.check()
            reader.close()
        if not hang.is_met:
            return
    raise AssertionError("there is no end to its calls")


@pytest.mark.parametrize("root", [1, 2, 3])
def test_a_root_is_replaced_or_not_while_one_hangs(root: int) -> None:
    """Root 2 is replaced by root 3: if that hangs, it fails, or lags."""

    def replace(world: World) -> None:
        with suppress(*([FastioError] if root == 3 else [])):
            world.replace(2)

    def save(world: World) -> None:
        assert world.commit("afterwards", replicas=2) in (2, 3)
        world.check()

    _at_each_call(root, replace, save)
