"""LoadHandle and LoadEvent: a load in the background, and the event at its end."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

from fastio.display.progress import Advance
from fastio.display.values import one_line
from fastio.reading.load import Load


class LoadHandle:
    """A load in the background, which `fastio.start_load` returns.

    A handle that is dropped without `wait` cancels its load and frees its memory.

    Examples
    --------
    >>> handle = fastio.start_load("model.safetensors")
    >>> sorted(handle.wait())
    ['bias', 'weight']
    """

    def __init__(self, begun: Load) -> None:
        self._begun = begun
        self._tensors: dict[str, Any] | None = None
        self._taking = threading.RLock()  # a signal handler may wait, too
        with begun.or_nothing():
            self._load = begun.start()

    def done(self) -> bool:
        """Return whether the load has ended or failed, so that `wait` returns at once.

        Raises
        ------
        RuntimeError
            In a forked process.

        Examples
        --------
        >>> handle = fastio.start_load("model.safetensors")
        >>> tensors = handle.wait()
        >>> handle.done()
        True
        """
        return self._load.done()

    @property
    def event(self) -> LoadEvent:
        """The end of the load, for a stream to wait for:
        ``torch.cuda.current_stream().wait_event(handle.event)``.
        """
        return LoadEvent(self)

    def wait(self, *, progress: bool = False) -> dict[str, Any]:
        """Wait until every byte is in its tensor, and return the tensors.

        Parameters
        ----------
        progress : bool
            Show a progress bar.

        Raises
        ------
        ChecksumError, DeviceError, FormatError, MemoryError, ReadError, ReplicaError
            As `fastio.load` does; no tensor is returned then.

        Examples
        --------
        >>> handle = fastio.start_load("model.safetensors", names=["bias"])
        >>> handle.wait()
        {'bias': array([0., 0., 0.], dtype=float32)}
        """
        return self._taken(self._load.wait, progress=progress)

    def queued(self, *, stream: object = None, progress: bool = False) -> dict[str, Any]:
        """Wait until every byte is verified and its copy is queued, and return the tensors.

        Work that is put later into `stream`, or into the stream of the load, waits on the device
        for the copies. A copy that fails later fails in these streams.

        A model larger than the pinned memory is copied by then, but for its last blocks. So the
        work that the load waits for must not wait for this call.

        Parameters
        ----------
        stream : object, optional
            As `fastio.load` takes it. A stream that does not name its device is of the load's
            device. Default: the current stream of each device.
        progress : bool
            Show a progress bar.

        Raises
        ------
        ChecksumError, DeviceError, FormatError, MemoryError, ReadError, ReplicaError
            As `wait` does.
        UsageError
            `stream` is no stream, or its device is unknown.

        Examples
        --------
        >>> handle = fastio.start_load("model.safetensors", framework="torch", device="cpu")
        >>> sorted(handle.queued())
        ['bias', 'weight']
        """
        return self._taken(lambda advance: self._load.follow(stream, advance), progress=progress)

    @one_line
    def __repr__(self) -> str:
        return f"<fastio.LoadHandle of {self._begun.wanted.source}, {self._state()}>"

    def _state(self) -> str:
        if not self._load.done():
            return "loading"
        return "failed" if self._load.failed() else "loaded"

    def _taken(
        self, come_so_far: Callable[[Advance | None], None], *, progress: bool
    ) -> dict[str, Any]:
        begun = self._begun
        first = begun.or_nothing() if self._tensors is None else contextlib.nullcontext()
        with first, begun.bar(shown=progress) as advance:
            come_so_far(advance)
            with self._taking:
                if self._tensors is None:
                    self._tensors = begun.over(self._load)
        return self._tensors


class LoadEvent:
    """The end of a load, with the waiting methods of `torch.cuda.Event`.

    Unlike there, `wait` also waits on the host until every copy is queued.

    Examples
    --------
    >>> handle = fastio.start_load("model.safetensors", framework="torch")
    >>> handle.event.synchronize()
    >>> handle.event.query()
    True
    """

    def __init__(self, handle: LoadHandle) -> None:
        self._handle = handle

    @one_line
    def __repr__(self) -> str:
        return f"<fastio.LoadEvent of {self._handle._begun.wanted.source}, {self._handle._state()}>"

    def query(self) -> bool:
        """Return whether the load has ended or failed.

        Raises
        ------
        RuntimeError
            In a forked process.

        Examples
        --------
        >>> handle = fastio.start_load("model.safetensors")
        >>> tensors = handle.wait()
        >>> handle.event.query()
        True
        """
        return self._handle.done()

    def synchronize(self) -> None:
        """Wait on the host for the end of the load.

        Raises
        ------
        As `LoadHandle.wait` does.

        Examples
        --------
        >>> handle = fastio.start_load("model.safetensors")
        >>> handle.event.synchronize()
        >>> handle.done()
        True
        """
        self._handle.wait()

    def wait(self, stream: object = None) -> None:
        """Make a stream wait for the load; return when every byte is verified and its copy queued.

        Raises
        ------
        As `LoadHandle.queued` does.

        Examples
        --------
        >>> handle = fastio.start_load("model.safetensors", framework="torch")
        >>> handle.event.wait()
        >>> sorted(handle.wait())
        ['bias', 'weight']
        """
        self._handle.queued(stream=stream)
