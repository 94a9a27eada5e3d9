"""Encoded tensors that are read and decoded on a thread, while whoever asked for them goes on."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

from fastio.host import threads
from fastio.reading.encoded import EncodedLoad


class Behind:
    """A load of encoded tensors on a thread of its own; one that is dropped is cancelled.

    Parameters
    ----------
    load : EncodedLoad
    """

    def __init__(self, load: EncodedLoad) -> None:
        self._run = _Run(load)
        self._process = os.getpid()
        self._thread: threading.Thread | None = None
        weakref.finalize(self, self._run.cancel)
        try:
            self._thread = threads.start(self._run, "fastio-decode", daemon=True)
        except threads.NoThreadError:
            self._run()

    def done(self) -> bool:
        """Return whether it has ended, well or not."""
        return self._thread is None or not self._thread.is_alive()

    def failed(self) -> bool:
        """Return whether it has ended, and not well."""
        return self.done() and self._run.error is not None

    def wait(self) -> dict[str, Any]:
        """Return the tensors. An interrupt cancels the load.

        Raises
        ------
        FormatError
            A tensor cannot be decoded.
        ChecksumError, MemoryError, ReadError
            As `fastio.load` does.
        RuntimeError
            In a forked process; after `cancel`.
        """
        if self._process != os.getpid():
            raise RuntimeError("a load does not outlive a fork")
        if self._thread is not None:
            try:
                self._thread.join()
            except BaseException:
                self.cancel()
                raise
        if self._run.error is not None:
            raise self._run.error
        return self._run.tensors

    def cancel(self) -> None:
        """Stop it."""
        self._run.cancel()


class _Run:
    """What the thread does. It does not hold the `Behind`, which may be dropped meanwhile."""

    def __init__(self, load: EncodedLoad) -> None:
        self.tensors: dict[str, Any] = {}
        self.error: BaseException | None = None
        self._load = load
        self._is_cancelled = False

    def __call__(self) -> None:
        try:
            self.tensors = dict(self._load)
        except BaseException as error:  # it is the waiting thread's
            self.error = error.with_traceback(None)  # its frames hold the files
            if self._is_cancelled:
                self.error = RuntimeError("the load was cancelled")

    def cancel(self) -> None:
        self._is_cancelled = True
        self._load.close()
