"""The rounds of a case of loads onto a GPU: one process a contender, which lives through them all.

Starting CUDA takes seconds and a GPU is at hand for minutes, so a contender's process is started
once and loads once a round, between the others. Its first load is kept apart: it pins memory and
fills allocators, which later ones find there.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bench import gpu, gpu_answers, gpu_contenders, gpu_limits
from bench.answers import Entry
from bench.cache import CacheError
from bench.contender import Loader
from bench.contenders import CONTENDERS
from bench.errors import MeasureError
from bench.harness import Worker
from bench.load_run import LoadRun

# What of the first load is told.
_FIRST_FIGURES = ("pinning_s", "pinned_bytes", "device_bytes")


class GpuRun(LoadRun):
    """All rounds of one case of loads onto a GPU."""

    def run(self, count: int) -> dict[str, Any]:
        """Measure the first load of each contender, then `count` rounds."""
        self._workers: dict[str, Worker] = {}
        self._first: dict[str, dict[str, float]] = {}
        with contextlib.ExitStack() as stack:
            self._start_all(stack)
            # One round more: the first loads.
            result = super().run(count + 1)
        result["rounds"] -= 1
        for name, found in result["contenders"].items():
            if name in self._first:
                found["first"] = self._first[name]
        return result

    def _start_all(self, stack: contextlib.ExitStack) -> None:
        """Start every contender's process, all at once: most of it is waiting for CUDA."""
        names = [each for each in self._case.contenders if each in CONTENDERS]
        here = [name for name in names if not self._is_missing(name)]

        def start(name: str) -> Worker | MeasureError:
            try:
                return self._worker(name).__enter__()
            except MeasureError as error:
                return error

        with ThreadPoolExecutor(max(1, len(here))) as pool:
            for name, started in zip(here, pool.map(start, here), strict=True):
                if isinstance(started, MeasureError):
                    self._fail(name, str(started))
                else:
                    stack.push(started.__exit__)
                    self._workers[name] = started

    def _one(self, name: str) -> dict[str, Any]:
        if name not in CONTENDERS:
            return super()._one(name)
        try:
            return self._measured(self._workers[name], name)
        except (MeasureError, CacheError) as error:
            # It takes no further part, and shall hold nothing of the device.
            self._workers.pop(name).__exit__(type(error), error, error.__traceback__)
            raise

    def _is_missing(self, name: str) -> bool:
        if gpu.is_rehearsal() and name in gpu_contenders.GPU_ONLY:
            self.missing[name] = "it loads to GPUs alone"
            return True
        return super()._is_missing(name)

    def _record(self, name: str, found: dict[str, Any]) -> None:
        if name in self._first:
            super()._record(name, found)
            return
        figures = found.get("figures", {})
        kept = {figure: figures[figure] for figure in _FIRST_FIGURES if figure in figures}
        self._first[name] = {"seconds": round(found["seconds"], 6), **kept}

    def _file_digest(self, entries: list[Entry]) -> str:
        return gpu_answers.file_digest(self._path, entries)

    def _expected(self, name: str) -> str:
        return "" if name in gpu_limits.NAMES else super()._expected(name)

    def _is_touched(self, loader: Loader) -> bool:
        return False

    def _check_done(self, loader: Loader, found: dict[str, Any]) -> None:
        """Nothing on a device is read later: what has the digest was there when the clock stopped,
        and the file was cold when it started.
        """
