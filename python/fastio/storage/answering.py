"""Calls of one root on a thread of its own, so that whoever waits can abandon a disk that hangs.

A call cannot be called back. The thread stays in it, and until it returns the root counts as one
that is not there. Its late result is dropped.
"""

from __future__ import annotations

import errno
import functools
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Any, Generic, NoReturn, TypeVar, cast

import fastio._native as _native
from fastio.errors import ReadError
from fastio.host import threads

_Result = TypeVar("_Result")
_Calls = queue.SimpleQueue["Call[Any] | None"]

_ONCE_MORE_S = 0.05
_here = threading.local()  # `answering`: whose calls this thread makes


def progress() -> None:
    """Note that the disk has answered: a call of many steps is waited for as long as they end.

    Raises
    ------
    Nothing.
    """
    answering = getattr(_here, "answering", None)
    if answering is not None:
        answering.stepped_at_s = time.monotonic()


class Call(Generic[_Result]):
    """A call that was asked for; `result` waits for what it returns."""

    def __init__(self, answering: Answering, call: Callable[[], _Result]) -> None:
        self.answering = answering
        self._call: Callable[[], _Result] | None = call
        self._ended = threading.Event()
        self._end = threading.Lock()
        self._owed_by: int | None = None
        self.is_left = False
        self._results: list[_Result] = []
        self._error: BaseException | None = None

    @property
    def has_ended(self) -> bool:
        """Whether it has returned or raised."""
        return self._ended.is_set()

    @property
    def has_ended_well(self) -> bool:
        """Whether it has returned, and nobody took the result yet."""
        return self.has_ended and bool(self._results)

    def make(self) -> None:
        """Make the call; its thread does."""
        call, self._call = self._call, None
        assert call is not None  # once
        try:
            self._results.append(call())
        except BaseException as error:
            self._error = error
        del call  # and what it keeps
        with self._end:
            if self.is_left:
                self._results.clear()
                self._error = None
                if self._owed_by is not None:
                    _native.note_answer(self._owed_by)
            self._ended.set()

    def abandon(self) -> None:
        """Wait for it no more."""
        with self._end:
            if not self.has_ended and not self.is_left and self.answering.disk is not None:
                self._owed_by = self.answering.disk  # loads ask other disks first from now on
                _native.note_debt(self._owed_by)
            self.is_left = True

    def ends(self, timeout_s: float) -> bool:
        """Wait until it has ended; False if it has not, and no step of it was done for so long."""
        if math.isinf(timeout_s):
            return self._ended.wait()
        begun_s = time.monotonic()
        while not self._ended.is_set():
            until_s = max(begun_s, self.answering.stepped_at_s) + timeout_s
            left_s = until_s - time.monotonic()
            # Once more at the end: this process may have been stopped, and its threads as well.
            has_ended = self._ended.wait(max(left_s, _ONCE_MORE_S))
            goes_on = left_s > 0 or self.answering.stepped_at_s + timeout_s > until_s
            if not has_ended and not goes_on:
                return False
        return True

    def result(self, timeout_s: float | None = None) -> _Result:
        """Return what the call returns.

        Parameters
        ----------
        timeout_s : float, optional
            How long a step may take. Default: as the root has it.

        Raises
        ------
        ReadError
            If the root does not answer in time.
        Whatever the call raises.
        """
        answering = self.answering
        timeout_s = answering.timeout_s if timeout_s is None else timeout_s
        if self.is_left:
            raise answering.no_answer()
        if not self.ends(timeout_s):
            raise answering.abandon(self)
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # its traceback has this frame
        return self._results.pop()


class Answering:
    """The thread of one root, started when it is first needed.

    Parameters
    ----------
    path : pathlib.PurePath
        Of the root.
    timeout_s : float
        How long a step may take, in seconds; infinity: for ever.

    Attributes
    ----------
    disk : int or None
        What the root lies on, as st_dev, once that is known.
    stepped_at_s : float
        When its last step began, by `time.monotonic`.
    """

    def __init__(self, path: PurePath, timeout_s: float) -> None:
        self.path = path
        self.timeout_s = timeout_s
        self.disk: int | None = None
        self.stepped_at_s = 0.0
        self._calls: _Calls | None = None
        self._process = 0
        self._left: Call[Any] | None = None

    @property
    def is_stuck(self) -> bool:
        """Whether it is still in a call that nobody waits for any more."""
        return (
            self._left is not None
            and not self._left.has_ended
            and self._process == os.getpid()  # a child made by fork has other threads
        )

    @property
    def owes_answer(self) -> bool:
        """Whether a read of its disk, for any root or load, is not waited for any more."""
        return self.disk is not None and _native.owes_answer(self.disk)

    def begin(self, call: Callable[[], _Result]) -> Call[_Result]:
        """Ask for a call, and do not wait for it. If the root is stuck, its result says so.

        Raises
        ------
        Nothing.
        """
        asked = Call(self, self._refuse if self.is_stuck else call)
        is_own = getattr(_here, "answering", None) is self
        calls = None if is_own or self.is_stuck else self._thread()
        if calls is None:
            asked.make()
        else:
            calls.put(asked)
        return asked

    def ask(self, call: Callable[[], _Result], timeout_s: float | None = None) -> _Result:
        """Make a call.

        Parameters
        ----------
        call : callable
        timeout_s : float, optional
            How long a step may take. Default: as the root has it.

        Raises
        ------
        ReadError
            If the root does not answer in time, or is stuck.
        Whatever the call raises.
        """
        return self.begin(call).result(timeout_s)

    def afterwards(self, call: Callable[[], object]) -> None:
        """Make a call now, or when the root has answered, if it is stuck.

        Raises
        ------
        Whatever the call raises, if it is made now.
        """
        if self.is_stuck and self._calls is not None:
            self._calls.put(Call(self, call))
        else:
            call()

    def abandon(self, call: Call[_Result]) -> ReadError:
        """Leave a call alone, and return the error that says so."""
        call.abandon()
        self._left = call
        _stuck[str(self.path)] = self
        return self.no_answer()

    def _refuse(self) -> NoReturn:
        raise self.no_answer()

    def no_answer(self) -> ReadError:
        """Return the error of a root that does not answer."""
        detail = f"no answer in time (Options.root_timeout_s is {self.timeout_s:g} s)"
        return ReadError(errno.ETIMEDOUT, "wait", self.path, detail=detail)

    def _thread(self) -> _Calls | None:
        """The queue of its thread; None where there is no thread to be had."""
        if self._calls is None or self._process != os.getpid():
            calls: _Calls = queue.SimpleQueue()
            try:
                threads.start(lambda: _answer(self, calls), f"fastio root {self.path}", daemon=True)
            except threads.NoThreadError:
                return None
            self._calls, self._process = calls, os.getpid()
        return self._calls

    def close(self) -> None:
        """Let its thread end when it has made all calls."""
        calls, self._calls = self._calls, None
        if calls is not None:
            calls.put(None)


def _answer(answering: Answering, calls: _Calls) -> None:
    _here.answering = answering
    while (call := calls.get()) is not None:
        call.make()
        del call  # its result is not kept


def patience_s(timeout_s: float, others: int) -> float:
    """Return how long a root is waited for that so many others can stand in for.

    Raises
    ------
    Nothing.
    """
    return timeout_s / 2 if others else timeout_s


def wait_for_all(calls: Sequence[Call[Any]]) -> None:
    """Wait until calls of several roots have ended, or it is time to abandon those that have not.

    If some have ended well, the others are waited for half as long.

    Raises
    ------
    Nothing.
    """
    others = len(calls) - 1
    late = [call for call in calls if not call.ends(patience_s(call.answering.timeout_s, others))]
    for call in late:
        is_needed = not any(each.has_ended_well for each in calls)
        if not is_needed or not call.ends(call.answering.timeout_s / 2):
            call.answering.abandon(call)


_Method = TypeVar("_Method", bound=Callable[..., Any])


def asked(method: _Method) -> _Method:
    """Have a method made by the thread that its object has as `answering`."""

    @functools.wraps(method)
    def ask(self: Any, *arguments: Any, **more: Any) -> Any:
        return self.answering.ask(lambda: method(self, *arguments, **more))

    return cast("_Method", ask)


_stuck: dict[str, Answering] = {}
os.register_at_fork(after_in_child=_stuck.clear)


def is_silent(path: str) -> bool:
    """Return whether a root does not answer: a call of it was left, and has not returned since.

    Raises
    ------
    Nothing.
    """
    found = _stuck.get(path)
    return found is not None and found.is_stuck


def of(path: PurePath, timeout_s: float) -> Answering:
    """Return what asks a root: the one that is stuck there, or a new one.

    Raises
    ------
    Nothing.
    """
    found = _stuck.get(str(path))
    if found is not None:
        if found.is_stuck:
            return found
        _stuck.pop(str(path), None)
    return Answering(path, timeout_s)
