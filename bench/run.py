"""All rounds of one case: who is next, in what state the file has to be, and what is believed."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from bench import answers, cache, fio, machine
from bench.cases import Case
from bench.contender import Contender
from bench.contenders import CONTENDERS, FIO_HUGE, FIOS
from bench.harness import MeasureError, Sample, Worker, median, rounds, thinned

# Below this, the kernel's own imprecision in RssAnon is larger than what is looked for.
CHECKED_BYTES = 64 * 2**20
FIELDS = ("seconds", "touch_s", "cpu_s", "foreign_cpu_s", "peak_bytes", "peak_rss_bytes")
# Of memory over time: as many as a line of text has room for.
POINTS = 60


class ModelFiles(Protocol):
    """Where the files of models come from."""

    def get(self, name: str) -> Path:
        """Return the path of a model."""


class Run:
    """All rounds of one case."""

    def __init__(
        self,
        case: Case,
        files: ModelFiles,
        settings: dict[str, fio.Settings],
        log: Callable[[str], None],
        *,
        everything: bool = False,
    ) -> None:
        self._everything = everything
        self._case = case
        self._path = files.get(case.model)
        self._warm = files.get("tiny")
        self._settings = settings
        self._log = log
        entries = answers.file_entries(self._path)
        if any(contender.gives == "rows" for contender in self._ours()):
            entries = [answers.middle(entry) for entry in entries]
        self._tensors = len(entries)
        self._tensor_bytes = sum(entry.nbytes for entry in entries)
        self._digest = answers.file_digest(self._path, entries)
        self._names_digest = answers.names_digest(entry.name for entry in entries)
        self._series: dict[str, dict[str, list[float]]] = {}
        self._notes: dict[str, dict[str, Any]] = {}
        self._over_time: dict[str, dict[str, list[float]]] = {}
        self.lines: dict[str, str] = {}
        self.eviction = ""
        self.missing: dict[str, str] = {}
        self.failed: dict[str, str] = {}

    def _ours(self) -> list[Contender]:
        return [CONTENDERS[name] for name in self._case.contenders if name not in FIOS]

    def run(self, count: int) -> dict[str, Any]:
        """Measure `count` rounds and return what the JSON says of the case."""
        started = datetime.datetime.now(datetime.timezone.utc)
        names = [name for name in self._case.contenders if not self._is_missing(name)]
        orders = rounds(names, count)
        for index, order in enumerate(orders):
            for name in order:
                if name in self.failed:
                    continue
                try:
                    self._record(name, self._one(name))
                except (MeasureError, cache.CacheError) as error:
                    self.failed[name] = self._without_paths(str(error))
                    self._series.pop(name, None)
                    self._over_time.pop(name, None)
                    self._log(f"{self._case.name}: {name} FAILED: {error}")
            self._log(f"{self._case.name}: round {index + 1} of {count}: {self._latest()}")
        return {
            "title": self._case.title,
            "date": started.isoformat(timespec="seconds"),
            "versions": machine.versions(),
            "cold": self._case.cold,
            "file_bytes": self._path.stat().st_size,
            "tensor_bytes": self._tensor_bytes,
            "tensors": self._tensors,
            "rounds": count,
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
                    **self._series[name],
                    **self._memory_over_time(name),
                }
                for name in names
                if name in self._series
            },
        }

    def _speed(self, name: str) -> dict[str, float]:
        if name in CONTENDERS and CONTENDERS[name].gives == "names":
            return {}
        seconds = median(self._series[name]["seconds"])
        return {"gb_per_s": round(self._tensor_bytes / 1e9 / seconds, 3)}

    def _memory_over_time(self, name: str) -> dict[str, Any]:
        found = self._over_time.get(name)
        # Too short a time has no samples.
        return {"memory_over_time": found} if found and found["mib"] else {}

    def _is_missing(self, name: str) -> bool:
        if name in FIOS:
            reason = fio.missing(huge_pages=name == FIO_HUGE)
        else:
            reason = CONTENDERS[name].missing()
        if reason is not None:
            self.missing[name] = reason
            self._log(f"{self._case.name}: without {name}: {reason}")
        return reason is not None

    def _prepare(self) -> None:
        if self._case.cold:
            self.eviction = cache.evict(self._path, everything=self._everything)
        else:
            cache.populate(self._path)

    def _one(self, name: str) -> dict[str, Any]:
        if name in FIOS:
            self._prepare()
            limit = fio.read(self._path, self._settings[name])
            return {
                "seconds": self._tensor_bytes / limit["bytes_per_s"],
                "cpu_s": limit["cpu_s"],
                "notes": {"settings": str(self._settings[name])},
            }
        contender = CONTENDERS[name]
        job = {
            "contender": name,
            "path": str(self._path),
            "warm": str(self._warm),
            "touch": self._is_touched(contender),
        }
        found_each: list[dict[str, Any]] = []
        with Worker(job) as worker:
            for _ in range(self._case.repeats):
                # The worker's part comes first: it may look into the file.
                worker.ask({"do": "prepare"})
                self._prepare()
                found = worker.ask({"do": "measure"}, sample_memory=self._case.memory)
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

    def _is_touched(self, contender: Contender) -> bool:
        if contender.gives == "names" or contender.place == "nowhere":
            return False
        return contender.place == "mapped" or not self._case.cold or self._case.touched

    def _check(self, name: str, found: dict[str, Any], digest: str) -> None:
        """Believe a measurement only if its tensors are right, and were read within the clock.

        Raises
        ------
        MeasureError
            They are not.
        """
        contender = CONTENDERS[name]
        expected = self._names_digest if contender.gives == "names" else self._digest
        if digest != expected:
            raise MeasureError(f"wrong answer: digest {digest}, expected {expected}")
        if self._case.cold and not self._is_touched(contender) and contender.gives != "names":
            self._check_done(contender, found)
        if self._case.memory:
            before = found["anonymous_before_bytes"]
            found["peak_bytes"] = max(
                found["sampled_peak_bytes"] - before, found["anonymous_bytes"]
            )

    def _check_done(self, contender: Contender, found: dict[str, Any]) -> None:
        """Believe that all was read within the clock by where it is now, or by what was read."""
        if self._tensor_bytes < CHECKED_BYTES:
            return
        fresh = contender.place == "fresh"
        nbytes = found["anonymous_bytes"] if fresh else found["storage_bytes"]
        where = "in memory" if fresh else "read from storage"
        if nbytes is None:
            raise MeasureError("the kernel does not count what a process reads (/proc/self/io)")
        least = 0.98 * self._tensor_bytes
        if nbytes < least:
            raise MeasureError(
                f"a cold load that is not done: {nbytes:,} bytes {where}, "
                f"expected {least:,.0f} or more"
            )

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
        self.lines[name] = found.get("line", "")
        self._notes[name] = json.loads(self._without_paths(json.dumps(found.get("notes", {}))))

    def _without_paths(self, text: str) -> str:
        """Take the folder out of what goes into the result file: it is nobody else's."""
        return text.replace(f"{self._path.parent}/", "")

    def _latest(self) -> str:
        return ", ".join(
            f"{name} {1000 * series['seconds'][-1]:.4g} ms" for name, series in self._series.items()
        )


def memory_over_time(samples: Sequence[Sample], before_bytes: int) -> dict[str, list[float]]:
    """Return samples of memory as two series of the same length: seconds, and MiB above before."""
    kept = thinned(samples, POINTS)
    return {
        "seconds": [round(seconds, 4) for seconds, _ in kept],
        "mib": [round((nbytes - before_bytes) / 2**20, 1) for _, nbytes in kept],
    }
