"""A wait that a signal handler may interrupt, enter and end: it has no critical section."""

from __future__ import annotations

import contextlib
import threading
import time


class Bell:
    """What one thread waits for and another rings. A ring before the wait is heard as well."""

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
