"""All rounds of one case: their order, the checks of each measurement, and the JSON.

`load_run` and `save_run` put files into the state that a measurement needs.
"""

from __future__ import annotations

import datetime
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from bench.contenders.registry import CONTENDERS
from bench.errors import MeasureError
from bench.measure import answers, cache, guest_memory, machine
from bench.measure.answers import Entry
from bench.measure.limits import LIMITS
from bench.measure.process import Sample, thinned
from bench.measure.rounds import rounds
from bench.measure.settings import Settings
from bench.measure.statistics import median
from bench.measure.workers import Worker
from bench.suites.campaign.case import Case

FIELDS = ("seconds", "touch_s", "cpu_s", "foreign_cpu_s", "peak_bytes", "peak_rss_bytes")
# Tries to prepare files: the machine may take pages back at any moment.
ATTEMPTS = 5
# Samples of memory over time, which fit on a line of text.
POINTS = 60


class ModelFiles(Protocol):
    """A source of model files."""

    def get(self, name: str) -> Path:
        """Return the path of a model."""


class Run(ABC):
    """All rounds of one case.

    Attributes
    ----------
    deadline : float, optional
        On the clock of `time.monotonic`: no round begins that would end after it.
    keep : callable, optional
        Takes the JSON so far, after each round.
    """

    deadline: float | None = None
    keep: Callable[[dict[str, Any]], None] | None = None
    # The timeout of one order to a worker.
    _timeout_s = 600.0

    def __init__(
        self,
        case: Case,
        files: ModelFiles,
        settings: Mapping[str, Settings],
        log: Callable[[str], None],
    ) -> None:
        self._case = case
        self._path = files.get(case.model)
        self._warm = files.get("tiny")
        self._settings = settings
        self._log = log
        entries = self._entries()
        self._tensors = len(entries)
        self._tensor_bytes = sum(entry.nbytes for entry in entries)
        self._digest = self._file_digest(entries)
        self._series: dict[str, dict[str, list[float]]] = {}
        self._notes: dict[str, dict[str, Any]] = {}
        self._over_time: dict[str, dict[str, list[float]]] = {}
        self.missing: dict[str, str] = {}
        self.failed: dict[str, str] = {}

    # ---- the kinds of cases ---------------------------------------------------------------------

    def _entries(self) -> list[Entry]:
        """Return the expected tensors of the model, or the expected parts of them."""
        return answers.file_entries(self._path)

    def _file_digest(self, entries: list[Entry]) -> str:
        """Return the digest of the right answer."""
        return answers.file_digest(self._path, entries)

    @abstractmethod
    def _about(self) -> dict[str, Any]:
        """Return the JSON that only this kind of case has."""

    @abstractmethod
    def _job(self, name: str) -> dict[str, Any]:
        """Return the worker's job, apart from the names of contender and model."""

    @abstractmethod
    def _prepare(self) -> None:
        """Prepare files and disk for a measurement.

        Raises
        ------
        MeasureError, CacheError
            They cannot be prepared.
        """

    def _is_prepared(self) -> bool:
        """Whether files are still prepared after memory was prepared too."""
        return True

    @abstractmethod
    def _limit(self, name: str) -> dict[str, float]:
        """Run one of `limits` once.

        Raises
        ------
        MeasureError
            It failed.
        """

    def _has_speed(self, name: str) -> bool:
        """Whether the time of a contender gives a speed."""
        return True

    # ---- the rounds -----------------------------------------------------------------------------

    def run(self, count: int) -> dict[str, Any]:
        """Measure `count` rounds and return what the JSON says of the case."""
        with guest_memory.Ballast(self._held_bytes()) as self._ballast:
            return self._run(count)

    def _run(self, count: int) -> dict[str, Any]:
        names = [name for name in self._case.contenders if not self._is_missing(name)]
        self._begin(names)
        orders = rounds(names, count)
        longest_s = 0.0
        done = 0
        for order in orders:
            begin = time.monotonic()
            if self.deadline is not None and begin + longest_s > self.deadline:
                break
            for name in order:
                if name in self.failed:
                    continue
                try:
                    self._record(name, self._one(name))
                except (MeasureError, cache.CacheError) as error:
                    self._fail(name, str(error))
            done += 1
            longest_s = max(longest_s, time.monotonic() - begin)
            self._log(f"{self._case.name}: round {done} of {count}: {self._latest()}")
            if self.keep is not None:
                self.keep(self._result(names, orders[:done]))
        return self._result(names, orders[:done])

    def _begin(self, names: Sequence[str]) -> None:
        """Do what comes before the first round."""
        self._started = datetime.datetime.now(datetime.timezone.utc)
        self._versions = machine.versions()

    def _held_bytes(self) -> int:
        """Return the bytes of tensors for the ballast."""
        return self._tensor_bytes

    def _result(self, names: Sequence[str], orders: Sequence[Sequence[str]]) -> dict[str, Any]:
        return {
            "title": self._case.title,
            "date": self._started.isoformat(timespec="seconds"),
            "versions": self._versions,
            **self._about(),
            "tensor_bytes": self._tensor_bytes,
            "tensors": self._tensors,
            "rounds": len(orders),
            "repeats": self._case.repeats,
            "orders": orders,
            "digest": self._digest,
            "missing": self.missing,
            "failed": self.failed,
            "contenders": {
                name: {
                    "median_s": round(median(self._series[name]["seconds"]), 6),
                    **self._speed(name),
                    "notes": self._notes.get(name, {}),
                    **{field: list(values) for field, values in self._series[name].items()},
                    **self._memory_over_time(name),
                }
                for name in names
                if name in self._series
            },
        }

    def _fail(self, name: str, reason: str) -> None:
        """Void a contender: drop its figures and its further rounds."""
        self.failed[name] = self._without_paths(reason)
        self._series.pop(name, None)
        self._over_time.pop(name, None)
        self._log(f"{self._case.name}: {name} FAILED: {reason}")

    def _speed(self, name: str) -> dict[str, float]:
        if not self._has_speed(name):
            return {}
        seconds = median(self._series[name]["seconds"])
        return {"gb_per_s": round(self._tensor_bytes / 1e9 / seconds, 3)}

    def _memory_over_time(self, name: str) -> dict[str, Any]:
        found = self._over_time.get(name)
        # Short calls have no samples.
        return {"memory_over_time": found} if found and found["mib"] else {}

    def _is_missing(self, name: str) -> bool:
        reason = (CONTENDERS[name] if name in CONTENDERS else LIMITS[name]).missing()
        if reason is not None:
            self.missing[name] = reason
            self._log(f"{self._case.name}: without {name}: {reason}")
        return reason is not None

    def _one(self, name: str) -> dict[str, Any]:
        if name not in CONTENDERS:
            self._prepare_all()
            limit = self._limit(name)
            self._ballast.fill()
            return {
                "seconds": self._tensor_bytes / limit["bytes_per_s"],
                "cpu_s": limit["cpu_s"],
                "notes": {"settings": str(self._settings[name])},
            }
        with self._worker(name) as worker:
            return self._measured(worker, name)

    def _worker(self, name: str) -> Worker:
        """Return the process of a contender, not started yet."""
        job = {"contender": name, "path": str(self._path), "warm": str(self._warm)}
        return Worker(job | self._job(name), self._timeout_s)

    def _measured(self, worker: Worker, name: str) -> dict[str, Any]:
        """Measure a contender as often as the case repeats, and return medians.

        Raises
        ------
        MeasureError, CacheError
            It failed, or its answer is wrong.
        """
        found_each: list[dict[str, Any]] = []
        for _ in range(self._case.repeats):
            # The worker comes first, since it may read the file.
            worker.ask({"do": "prepare"})
            self._prepare_all()
            found = worker.ask({"do": "measure"}, sample_memory=self._case.memory)
            self._ballast.fill()
            self._check(name, found, worker.ask({"do": "digest"})["digest"])
            found_each.append(found)
        merged = dict(found_each[-1])
        for field in FIELDS:
            if field in merged:
                merged[field] = median([found[field] for found in found_each])
        merged["figures"] = {
            figure: median([found["figures"][figure] for found in found_each])
            for figure in merged["figures"]
        }
        return merged

    def _prepare_all(self) -> None:
        """Prepare files, disk and memory, right before the clock starts.

        Raises
        ------
        MeasureError, CacheError
            They cannot be prepared.
        """
        self._prepare()
        self._ballast.free()
        for _ in range(ATTEMPTS):
            if self._is_prepared():
                return
            self._prepare()
        raise MeasureError(f"the machine changed what was prepared, {ATTEMPTS} times in a row")

    def _check(self, name: str, found: dict[str, Any], digest: str) -> None:
        """Accept a measurement only if its tensors are right.

        Raises
        ------
        MeasureError
            They are wrong.
        """
        if digest != self._expected(name):
            raise MeasureError(f"wrong answer: digest {digest}, expected {self._expected(name)}")
        if self._case.memory:
            before = found["anonymous_before_bytes"]
            found["peak_bytes"] = max(
                found["sampled_peak_bytes"] - before, found["anonymous_bytes"]
            )

    def _expected(self, name: str) -> str:
        """Return the expected digest of a contender."""
        return self._digest

    def _record(self, name: str, found: dict[str, Any]) -> None:
        series = self._series.setdefault(name, {})
        for field in FIELDS:
            if field in found:
                series.setdefault(field, []).append(round(found[field], 7))
        for figure, value in found.get("figures", {}).items():
            series.setdefault(figure, []).append(round(value, 7))
        if self._case.over_time:
            self._over_time[name] = memory_over_time(
                found["samples"], found["anonymous_before_bytes"]
            )
        self._notes[name] = json.loads(self._without_paths(json.dumps(found.get("notes", {}))))

    def _without_paths(self, text: str) -> str:
        """Remove the folder from a text for the result file."""
        return text.replace(f"{self._path.parent}/", "")

    def _latest(self) -> str:
        return ", ".join(
            f"{name} {1000 * series['seconds'][-1]:.4g} ms" for name, series in self._series.items()
        )


def memory_over_time(samples: Sequence[Sample], before_bytes: int) -> dict[str, list[float]]:
    """Return samples of memory as two series: seconds, and MiB above `before_bytes`."""
    kept = thinned(samples, POINTS)
    return {
        "seconds": [round(seconds, 4) for seconds, _ in kept],
        "mib": [round((nbytes - before_bytes) / 2**20, 1) for _, nbytes in kept],
    }
