"""SaveHandle: a save in the background, also while Python ends."""

from __future__ import annotations

import atexit
import concurrent.futures
import logging
import threading
from collections.abc import Callable
from pathlib import Path

from fastio.arguments.sizes import patience
from fastio.display.values import cut, one_line
from fastio.host import threads
from fastio.host.bell import Latch
from fastio.saving.turns import Turn

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
    """A save in the background, which `fastio.start_save` returns.

    It is a `concurrent.futures.Future`, and works with `concurrent.futures.wait`. The interpreter
    ends after the save. An error that nobody asked for is logged then. In a forked child the handle
    never ends: the save goes on in the parent.

    Parameters
    ----------
    path : pathlib.Path
        The absolute path, as the working directory may change meanwhile.
    turn : Turn, optional
        The turn of the save.

    Examples
    --------
    >>> handle = fastio.start_save({"weight": np.ones(3)}, "model.safetensors")
    >>> handle.result().name
    'model.safetensors'
    """

    def __init__(self, path: Path, turn: Turn | None = None) -> None:
        super().__init__()
        self.path = path
        self._turn = turn
        # A signal handler may wait while its own thread holds the lock of the `Future`.
        self._ended, self._released = Latch(), Latch()
        open_ended = self._ended.open
        self.add_done_callback(lambda _: open_ended())  # the first of all callbacks

    @one_line
    def __repr__(self) -> str:
        # Without the lock of `Future`, which nobody releases in a child made by fork.
        error = self._exception
        state = _STATES.get(self._state, self._state) if error is None else f"failed: {error}"
        return f"<fastio.SaveHandle to {cut(str(self.path), 70)}, {state}>"

    def result(self, timeout: float | None = None) -> Path:
        """Wait for the end of the save, and return the path.

        A signal handler may wait, too. If its own thread is saving to that path, this save goes
        first.

        Parameters
        ----------
        timeout : float, optional
            Longest wait in seconds, under the name that every `Future` has for it.

        Raises
        ------
        concurrent.futures.TimeoutError
            The save takes longer.
        concurrent.futures.CancelledError
            It was cancelled before it began.
        RuntimeError
            A finalizer on the thread of the save calls it.
        As `fastio.save` does: the error of the save.

        Examples
        --------
        >>> handle = fastio.start_save({"weight": np.ones(3)}, "model.safetensors")
        >>> handle.result(timeout=60).name
        'model.safetensors'
        """
        self._wait_for(self._ended, timeout)
        try:
            return super().result(0)
        finally:
            self._note_asked()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the end of the save, and return its error, or None.

        Parameters
        ----------
        timeout : float, optional
            As `result` takes it.

        Raises
        ------
        concurrent.futures.TimeoutError, concurrent.futures.CancelledError, RuntimeError
            As `result` does.

        Examples
        --------
        >>> handle = fastio.start_save({"weight": np.ones(3)}, "model.safetensors")
        >>> print(handle.exception())
        None
        """
        self._wait_for(self._ended, timeout)
        try:
            return super().exception(0)
        finally:
            self._note_asked()

    def _wait_for(self, latch: Latch, timeout_s: float | None) -> bool:
        patience_s = patience("timeout", timeout_s)
        if self._turn is not None and not latch.is_open:
            if threading.get_ident() in self._turn.threads:
                raise RuntimeError(f"{self.path}: the thread of this save cannot wait for it")
            self._turn.go_first()
        return latch.wait(patience_s)

    def _note_asked(self) -> None:
        if self._ended.is_open:
            _failed.discard(self)

    def wait_released(self, timeout_s: float | None = None) -> bool:
        """Wait until the save no longer reads the tensors, so that they may change.

        Parameters
        ----------
        timeout_s : float, optional
            Longest wait in seconds.

        Returns
        -------
        bool
            False if it takes longer.

        Raises
        ------
        RuntimeError
            As `result` does. A failed save has released them.

        Examples
        --------
        >>> weight = np.ones(3)
        >>> handle = fastio.start_save({"weight": weight}, "model.safetensors", snapshot="borrow")
        >>> handle.wait_released()
        True
        >>> weight[:] = 0
        """
        return self._wait_for(self._released, timeout_s)

    def release(self) -> None:
        """Say that the save no longer reads the tensors."""
        self._released.open()

    def cancel(self) -> bool:
        """Cancel the save if it still waits for another one to the same path.

        Examples
        --------
        >>> handle = fastio.start_save({"weight": np.ones(3)}, "model.safetensors")
        >>> path = handle.result()
        >>> handle.cancel()
        False
        """
        cancelled = super().cancel()
        if cancelled:
            self.release()
        return cancelled


def start(
    path: Path, turn: Turn, work: Callable[[SaveHandle], None], release_work: Callable[[], None]
) -> SaveHandle:
    """Run a save on a thread of its own.

    Parameters
    ----------
    path : pathlib.Path
    turn : Turn
        Its turn, which belongs to that thread from now on.
    work : callable
        Given the handle.
    release_work : callable
        Called in the place of `work` where nothing comes of it.

    Notes
    -----
    Where no thread can be had, the caller's does the work, and the handle is done when this
    returns. The log says so.

    Raises
    ------
    KeyboardInterrupt
        If it comes while the caller's thread does the work.
    Whatever a signal handler raises meanwhile; the save may go on then.
    """
    handle = SaveHandle(path, turn)
    unclaimed = threading.Lock()  # a thread that has begun owns the save, and nobody else

    def run() -> None:
        if not unclaimed.acquire(blocking=False):
            return
        turn.threads = {threading.get_ident()}
        try:
            work(handle)
        except BaseException as error:  # any exception goes to the owner of the handle
            _failed.add(handle)
            handle.release()
            handle.set_exception(error)
        else:
            handle.release()
            if not handle.cancelled():
                handle.set_result(path)

    try:
        if threading.main_thread().is_alive():
            # Not a daemon: the interpreter waits for it.
            try:
                thread = threads.start(run, f"fastio.save {path.name}")
            except threads.NoThreadError as refusal:
                _log.warning("%s is saved before start_save() returns: %s", path, refusal)
            else:
                turn.threads = {thread.ident or 0}
                return handle
        # No thread can be started, or the interpreter ends and waits for no new one.
        run()
    except BaseException:
        if unclaimed.acquire(blocking=False):
            release_work()
        raise
    if handle in _failed and isinstance(interrupt := handle.exception(), KeyboardInterrupt):
        raise interrupt
    return handle


def _log_what_nobody_asked_for() -> None:
    for handle in tuple(_failed):
        _log.error("saving %s failed: %s", handle.path, handle.exception())


atexit.register(_log_what_nobody_asked_for)
