"""A whole source as tensors: what is asked for, checked; then read at once, or started."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

from fastio.arguments.checks import check_kind
from fastio.display.progress import Advance, progress_bar
from fastio.frameworks import FrameworkName
from fastio.frameworks import framework as framework_named
from fastio.options import Options, default_options
from fastio.reading import devices, verification
from fastio.reading.loading import bytes_of, describe, note_events, read_all
from fastio.reading.located import LocatedSource
from fastio.reading.verification import Verify, check_verify
from fastio.report import Report


class To(NamedTuple):
    """The destination of tensors, as `fastio.load` takes it."""

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
        find: Callable[[Collection[str] | None], LocatedSource],
        *,
        framework: FrameworkName,
        names: Collection[str] | None,
        verify: Verify,
        options: Options | None,
        report: Report | None,
        to: To,
    ) -> None:
        self._framework = framework_named(framework)
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
        self._choose = devices.chooser(self._framework, *to)
        self._started, self._cpu_started = time.perf_counter(), time.process_time()
        located = find(names)
        if names is None:
            located.catalog.absent.require_none()
        self.wanted = located if names is None else located.select(names)
        self._options = self.wanted.narrowed(self._options)
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
                self._framework,
                verify=self._verify,
                options=self._options,
                report=self._report,
                progress=progress,
            )
        )

    def start(self) -> devices.DeviceLoad:
        """Return it on its way to devices, or to memory of the host where none is named.

        Raises
        ------
        As `fastio.load` does, before the first byte is read.
        """
        return devices.DeviceLoad(
            self.wanted,
            self._framework,
            self._choose or devices.onto_the_host(self._framework),
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
