"""A save that goes on while its caller does: the handle, and what happens when Python ends."""

from __future__ import annotations

import atexit
import concurrent.futures
import logging
import threading
from collections.abc import Callable
from pathlib import Path

from fastio.shown import cut, one_line

_log = logging.getLogger("fastio")

_STATES = {
    "PENDING": "waiting for another save",
    "RUNNING": "saving",
    "CANCELLED": "cancelled",
    "CANCELLED_AND_NOTIFIED": "cancelled",
    "FINISHED": "saved",
}
"""By what `Future` calls them."""
_failed: set[SaveHandle] = set()
"""Those whose error nobody has asked for yet."""


class SaveHandle(concurrent.futures.Future[Path]):
    """A save that was asked for with ``wait=False``.

    It is a `concurrent.futures.Future`, and works with `concurrent.futures.wait`. The interpreter
    does not end before it is done; an error that nobody asked for is logged then. In a child made
    by fork it never ends: the save goes on in its parent.

    Parameters
    ----------
    path : pathlib.Path
        What is saved to.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._released = threading.Event()

    @one_line
    def __repr__(self) -> str:
        # Without the lock of `Future`, which nobody lets go of in a child made by fork.
        error = self._exception
        state = _STATES.get(self._state, self._state) if error is None else f"failed: {error}"
        return f"<fastio.SaveHandle to {cut(str(self.path), 70)}, {state}>"

    def result(self, timeout: float | None = None, *, timeout_s: float | None = None) -> Path:
        """Wait for the end of the save, and return the path.

        Parameters
        ----------
        timeout, timeout_s : float, optional
            How long to wait at most, in seconds; the first is what every `Future` calls it.

        Raises
        ------
        concurrent.futures.TimeoutError
            If it takes longer.
        concurrent.futures.CancelledError
            If it was cancelled before it began.
        As `fastio.save` does: what the save failed with.
        """
        try:
            return super().result(timeout if timeout_s is None else timeout_s)
        finally:
            self._note_asked()

    def exception(
        self, timeout: float | None = None, *, timeout_s: float | None = None
    ) -> BaseException | None:
        """Wait for the end of the save, and return what it failed with, or None.

        Parameters
        ----------
        timeout, timeout_s : float, optional
            As `result` takes them.

        Raises
        ------
        concurrent.futures.TimeoutError, concurrent.futures.CancelledError
            As `result` does.
        """
        try:
            return super().exception(timeout if timeout_s is None else timeout_s)
        finally:
            self._note_asked()

    def _note_asked(self) -> None:
        if self.done():
            _failed.discard(self)

    def wait_released(self, timeout_s: float | None = None) -> bool:
        """Wait until the tensors are not looked at any more, and may change.

        Parameters
        ----------
        timeout_s : float, optional
            How long to wait at most, in seconds.

        Returns
        -------
        bool
            False if it takes longer.

        Raises
        ------
        Nothing; also a save that failed has let go of them.
        """
        return self._released.wait(timeout_s)

    def release(self) -> None:
        """Say that the tensors are not looked at any more."""
        self._released.set()

    def cancel(self) -> bool:
        """Cancel the save, if it has not begun: another one to the same path goes on before it."""
        cancelled = super().cancel()
        if cancelled:
            self.release()
        return cancelled


def start(path: Path, work: Callable[[SaveHandle], None]) -> SaveHandle:
    """Run a save on a thread of its own.

    Parameters
    ----------
    path : pathlib.Path
    work : callable
        Given the handle.

    Raises
    ------
    RuntimeError
        If no thread can be had.
    """
    handle = SaveHandle(path)

    def run() -> None:
        try:
            work(handle)
        except BaseException as error:  # whatever it is, it is whose handle this is that hears it
            _failed.add(handle)
            handle.release()
            handle.set_exception(error)
        else:
            handle.release()
            if not handle.cancelled():
                handle.set_result(path)

    if threading.main_thread().is_alive():
        # Not a daemon: the interpreter waits for it.
        threading.Thread(target=run, name=f"fastio.save {path.name}").start()
    else:  # the interpreter is at its end, and waits for nothing that begins now
        run()
    return handle


def _log_what_nobody_asked_for() -> None:
    for handle in tuple(_failed):
        _log.error("saving %s failed: %s", handle.path, handle.exception())


atexit.register(_log_what_nobody_asked_for)
