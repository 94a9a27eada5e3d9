"""Calls at once, each on a thread of its own: an interrupt ends the wait for them."""

import os
import signal
import threading
from collections.abc import Callable

import pytest

from fastio.host import threads
from fastio.store import together


def test_all_calls_end_and_their_exceptions_are_returned() -> None:
    done = []

    def fails() -> None:
        raise ValueError("one")

    calls: list[Callable[[], None]] = [lambda: done.append(1), fails, lambda: done.append(2)]
    errors = together.at_once(calls, interrupted=lambda: None)
    assert sorted(done) == [1, 2]
    assert [str(error) for error in errors] == ["one"]


def test_without_threads_they_are_made_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object, **__: object) -> threading.Thread:
        raise threads.NoThreadError("none")

    monkeypatch.setattr(threads, "start", none)
    done: list[int] = []
    assert together.at_once([lambda: done.append(1)] * 2, interrupted=lambda: None) == []
    assert done == [1, 1]


def _interrupt() -> None:
    """Started second: the call before is known to run by then."""
    os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupt_waits_for_calls_that_end_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "END_WAIT_S", 60.0)
    told, ended = threading.Event(), threading.Event()

    def ends() -> None:
        assert told.wait(60)
        ended.set()

    with pytest.raises(KeyboardInterrupt):
        together.at_once([ends, _interrupt], interrupted=told.set)
    assert ended.is_set()


def test_an_interrupt_leaves_calls_that_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "END_WAIT_S", 0.01)
    answers, ended = threading.Event(), threading.Event()
    outlived: list[bool] = []

    def hangs() -> None:
        outlived.append(not answers.wait(20))
        ended.set()

    with pytest.raises(KeyboardInterrupt):
        together.at_once([hangs, _interrupt], interrupted=lambda: None)
    assert outlived == [], "it was waited for"
    answers.set()
    assert ended.wait(60)
    assert outlived == [False]
