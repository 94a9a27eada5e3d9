"""A step that no signal handler interrupts: it runs on a thread of its own.

Python runs signal handlers on the main thread only, between any two lines. A handler that saves
would meet what is in the middle of a change, and locks that its own thread holds. Here it waits for
the step like any other thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from fastio.host import threads
from fastio.host.bell import Bell

_Result = TypeVar("_Result")


class UninterruptedStep(Generic[_Result]):
    """A step that is taken once, by `run`.

    Parameters
    ----------
    step : callable
    name : str
        Of its thread.
    """

    def __init__(self, step: Callable[[], _Result], name: str) -> None:
        self._step = step
        self._name = name
        self._results: list[_Result] = []
        self._error: BaseException | None = None
        self._ended = Bell()
        self._changing = threading.RLock()
        self._is_over = False
        self._then: Callable[[], None] = lambda: None

    def run(
        self,
        *,
        patience_s: float | None = None,
        interrupted: Callable[[], None] = lambda: None,
    ) -> _Result:
        """Take the step, and return what it returns.

        Parameters
        ----------
        patience_s : float, optional
            How long the step is waited for after a signal handler has raised. Default: to its end,
            or until a handler raises once more.
        interrupted : callable
            Called when a handler has raised.

        Raises
        ------
        Whatever the step raises; or what a signal handler raises meanwhile.
        """
        if threading.current_thread() is threading.main_thread():
            try:
                threads.start(self._take, self._name, daemon=True)
            except threads.NoThreadError:
                self._take()
        else:
            self._take()
        try:
            self._ended.wait()
        except BaseException:
            interrupted()
            self._ended.wait(None if patience_s is None else time.monotonic() + patience_s)
            raise
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # its traceback has this frame
        return self._results.pop()

    def _take(self) -> None:
        try:
            self._results.append(self._step())
        except BaseException as error:
            self._error = error
        with self._changing:
            self._is_over = True
        self._then()
        self._ended.ring()

    def when_over(self, then: Callable[[], None]) -> None:
        """Have something done at the end of the step: now, or by its thread if it still runs."""
        with self._changing:
            if not self._is_over:
                self._then = then
                return
        then()
