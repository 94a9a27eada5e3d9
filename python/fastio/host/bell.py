"""Waits that a signal handler may interrupt, enter and end: they have no critical section."""

from __future__ import annotations

import contextlib
import threading
import time


class Bell:
    """A bell that one thread waits for and another rings. An earlier ring is heard as well."""

    def __init__(self) -> None:
        self._silence = threading.Lock()
        self._silence.acquire()

    def ring(self) -> None:
        """Let whoever waits go on, or whoever waits next."""
        with contextlib.suppress(RuntimeError):  # it was rung already
            self._silence.release()

    def wait(self, until_s: float | None = None) -> bool:
        """Wait for a ring, and take it.

        Parameters
        ----------
        until_s : float, optional
            When to wait no longer, by `time.monotonic`.

        Returns
        -------
        bool
            False if it was not rung until then.
        """
        if until_s is None:
            return self._silence.acquire()
        left_s = min(max(until_s - time.monotonic(), 0), threading.TIMEOUT_MAX)
        return self._silence.acquire(timeout=left_s)


class Latch:
    """A gate that any number of threads wait for. Once open, it stays so."""

    def __init__(self) -> None:
        self.is_open = False
        self._opened = Bell()

    def open(self) -> None:
        """Let all go on who wait, and who will wait."""
        self.is_open = True
        self._opened.ring()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until it is open.

        Parameters
        ----------
        timeout_s : float, optional
            How long to wait at most, in seconds.

        Returns
        -------
        bool
            False if it takes longer.
        """
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        while not self.is_open:
            if not self._opened.wait(until_s):
                return self.is_open
            self._opened.ring()  # for the next one who waits
        return True
