"""A whole source as tensors: at once, or on its way to devices while its caller goes on."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

from fastio.arguments.checks import Verify, check_kind, check_verify
from fastio.display.progress import Advance, progress_bar
from fastio.display.values import one_line
from fastio.errors import UsageError
from fastio.frameworks import FrameworkName
from fastio.frameworks import framework as framework_named
from fastio.options import Options, default_options
from fastio.reading import devices, verification
from fastio.reading.loading import bytes_of, describe, note_events, read_all
from fastio.reading.located import Located
from fastio.report import Report


class To(NamedTuple):
    """Where tensors go, as `fastio.load` takes it."""

    device: object = None
    device_map: Mapping[str, object] | None = None
    stream: object = None


class Load:
    """A load whose arguments are sound and whose source is found; nothing of it is read yet.

    Parameters
    ----------
    find : callable
        From the names that are wanted, or None for all, to where they are.
    to : To
        Where tensors go.

    The others, and what is raised, are those of `fastio.load`.
    """

    def __init__(
        self,
        find: Callable[[Collection[str] | None], Located],
        *,
        framework: FrameworkName,
        names: Collection[str] | None,
        verify: Verify,
        options: Options | None,
        report: Report | None,
        to: To,
    ) -> None:
        self._held_by = framework_named(framework)
        check_verify(verify)
        check_kind("options", options, Options)
        check_kind("report", report, Report)
        self._verify = bool(verify)
        self._options = options if options is not None else default_options()
        self._report = report if report is not None else Report()
        if report is not None:
            report.clear()
        if names is not None and not isinstance(names, (str, bytes)):
            names = tuple(names)
        self._names = names
        self._choose = devices.chooser(self._held_by, *to)
        self._started, self._cpu_started = time.perf_counter(), time.process_time()
        located = find(names)
        if names is None:
            located.catalog.absent.require_none()
        self.wanted = located if names is None else located.select(names)
        verification.check(located, self.wanted, verify)

    @contextlib.contextmanager
    def or_nothing(self) -> Iterator[None]:
        """The report of what fails meanwhile is empty."""
        try:
            yield
        except BaseException:
            self._report.clear()
            raise
        finally:
            if self.wanted.watch is not None:
                self.wanted.watch.sum_up()

    def now(self, *, progress: bool) -> dict[str, Any]:
        """Return all of it.

        Raises
        ------
        As `fastio.load` does.
        """
        with self.or_nothing(), self.bar(shown=progress) as advance:
            if self._choose is None:
                return self._onto_the_host(advance)
            load = self.start()
            load.wait(advance)
            return self.over(load)

    def bar(self, *, shown: bool) -> contextlib.AbstractContextManager[Advance | None]:
        """Return a progress bar of it."""
        nbytes = bytes_of(self.wanted) if shown else 0
        return progress_bar(self.wanted.source, nbytes, shown=shown)

    def _onto_the_host(self, progress: Advance | None) -> dict[str, Any]:
        describe(self._report, self.wanted, verified=self._verify)
        return self._reported(
            read_all(
                self.wanted,
                self._held_by,
                verify=self._verify,
                options=self._options,
                report=self._report,
                progress=progress,
            )
        )

    def start(self) -> devices.DeviceLoad:
        """Return it on its way to devices.

        Raises
        ------
        As `fastio.load` does, before the first byte is read.
        """
        if self._choose is None:
            raise UsageError("wait=False is for loads to a device, and device= names none")
        return devices.DeviceLoad(
            self.wanted,
            self._held_by,
            self._choose,
            verify=self._verify,
            options=self._options,
        )

    def over(self, load: devices.DeviceLoad) -> dict[str, Any]:
        """Fill the report with what was on its way, and return the tensors that are asked for."""
        describe(self._report, self.wanted, verified=self._verify)
        self._report.add(load.statistics)
        return self._reported(load.tensors())

    def _reported(self, tensors: dict[str, Any]) -> dict[str, Any]:
        note_events(self._report, self.wanted)
        if self._names is not None:
            tensors = {str(name): tensors[name] for name in self._names}
        self._report.seconds = time.perf_counter() - self._started
        self._report.cpu_seconds = time.process_time() - self._cpu_started
        self._report.log("loaded %s", self.wanted.source)
        return tensors


class LoadHandle:
    """Tensors on their way to devices: what ``fastio.load(..., wait=False)`` returns.

    Dropped without `wait`, the load is given up, and nothing is left of it.
    """

    def __init__(self, begun: Load) -> None:
        self._begun = begun
        self._tensors: dict[str, Any] | None = None
        self._taking = threading.RLock()  # a signal handler may wait, too
        with begun.or_nothing():
            self._load = begun.start()

    def done(self) -> bool:
        """Whether it has ended, well or not: `wait` answers at once then.

        Raises
        ------
        RuntimeError
            In a process that was forked.
        """
        return self._load.done()

    @property
    def event(self) -> LoadEvent:
        """The end of the load, for a stream to wait for:
        ``torch.cuda.current_stream().wait_event(handle.event)``.
        """
        return LoadEvent(self)

    def wait(self, *, progress: bool = False) -> dict[str, Any]:
        """Wait until every byte is where it belongs, and return the tensors.

        Parameters
        ----------
        progress : bool
            Show a progress bar.

        Raises
        ------
        ChecksumError, DeviceError, MemoryError, ReadError, ReplicaError
            As `fastio.load` does; no tensor is handed out then.
        """
        return self._taken(self._load.wait, progress=progress)

    def queued(self, *, stream: object = None, progress: bool = False) -> dict[str, Any]:
        """Wait until every byte is verified and its copy queued, and return the tensors: what is
        put into `stream` from then on, and into the stream that the load came behind, waits on the
        device for the copies.

        Of a model larger than the pinned memory all but the last blocks are copied by then, so
        what the load came behind must be able to go on. A copy that fails later does so in these
        streams.

        Parameters
        ----------
        stream : object, optional
            As `fastio.load` takes it; where it does not say its device, of that of the load.
            Default: the current one of each.
        progress : bool
            Show a progress bar.

        Raises
        ------
        ChecksumError, DeviceError, MemoryError, ReadError, ReplicaError
            As `wait` does.
        UsageError
            A stream that is none, or whose device is not known.
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
    """The end of a load, with the methods of `torch.cuda.Event` that wait for one. Other than
    there, `wait` waits on the host, too, until every copy is queued.
    """

    def __init__(self, handle: LoadHandle) -> None:
        self._handle = handle

    @one_line
    def __repr__(self) -> str:
        return f"<fastio.LoadEvent of {self._handle._begun.wanted.source}, {self._handle._state()}>"

    def query(self) -> bool:
        """Whether it is reached, or never will be, as the load has failed.

        Raises
        ------
        RuntimeError
            In a process that was forked.
        """
        return self._handle.done()

    def synchronize(self) -> None:
        """Wait for it.

        Raises
        ------
        As `LoadHandle.wait` does.
        """
        self._handle.wait()

    def wait(self, stream: object = None) -> None:
        """Let a stream wait for it; returns when every byte is verified and its copy queued.

        Raises
        ------
        As `LoadHandle.queued` does.
        """
        self._handle.queued(stream=stream)
