"""The rounds of a case of loads onto a GPU, with one process for each contender.

Starting CUDA takes seconds and a GPU is available for minutes. So a contender's process is started
once and loads once in each round. Its first load is kept apart: it pins memory and fills
allocators for the later ones.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bench.contenders import gpu_limits, gpu_loads
from bench.contenders.contender import Loader
from bench.contenders.registry import CONTENDERS
from bench.errors import MeasureError
from bench.measure import gpu, gpu_answers, guest_memory
from bench.measure.answers import Entry
from bench.measure.cache import CacheError
from bench.measure.workers import Worker
from bench.suites.campaign.load_run import LoadRun

# Figures of the first load in the result file.
_FIRST_FIGURES = ("pinning_s", "pinned_bytes", "device_bytes")


class GpuRun(LoadRun):
    """All rounds of one case of loads onto a GPU."""

    # A contender that hangs does not take the time of all.
    _timeout_s = 45.0

    def run(self, count: int) -> dict[str, Any]:
        """Measure the first load of each contender, then `count` rounds."""
        self._workers: dict[str, Worker] = {}
        self._first: dict[str, dict[str, float]] = {}
        with contextlib.ExitStack() as self._stack:
            return super().run(count)

    def _begin(self, names: Sequence[str]) -> None:
        """Start every contender's process, then have each load once.

        They start at once, since they mostly wait for CUDA.
        """
        super()._begin(names)
        loaders = [name for name in names if name in CONTENDERS]

        def start(name: str) -> Worker | MeasureError:
            try:
                return self._worker(name).__enter__()
            except MeasureError as error:
                return error

        with ThreadPoolExecutor(max(1, len(loaders))) as pool:
            for name, started in zip(loaders, pool.map(start, loaders), strict=True):
                if isinstance(started, MeasureError):
                    self._fail(name, str(started))
                else:
                    self._stack.push(started.__exit__)
                    self._workers[name] = started
        for name in [name for name in self._workers if name not in gpu_limits.NAMES]:
            try:
                found = self._one(name)
            except (MeasureError, CacheError) as error:
                self._fail(name, str(error))
                continue
            figures = found["figures"]
            kept = {figure: figures[figure] for figure in _FIRST_FIGURES if figure in figures}
            self._first[name] = {"seconds": round(found["seconds"], 6), **kept}

    def _result(self, names: Sequence[str], orders: Sequence[Sequence[str]]) -> dict[str, Any]:
        result = super()._result(names, orders)
        for name, first in self._first.items():
            if name in result["contenders"]:
                result["contenders"][name]["first"] = first
        return result

    def _held_bytes(self) -> int:
        # Tensors go to the device. The host holds only blocks and the page cache.
        return self._tensor_bytes // guest_memory.FACTOR

    def _one(self, name: str) -> dict[str, Any]:
        if name not in CONTENDERS:
            return super()._one(name)
        try:
            return self._measured(self._workers[name], name)
        except (MeasureError, CacheError) as error:
            # It takes no further part, so its memory of the device is freed.
            self._workers.pop(name).__exit__(type(error), error, error.__traceback__)
            raise

    def _is_missing(self, name: str) -> bool:
        if gpu.is_rehearsal() and name in gpu_loads.GPU_ONLY:
            self.missing[name] = "it loads to GPUs alone"
            return True
        return super()._is_missing(name)

    def _file_digest(self, entries: list[Entry]) -> str:
        return gpu_answers.file_digest(self._path, entries)

    def _expected(self, name: str) -> str:
        return "" if name in gpu_limits.NAMES else super()._expected(name)

    def _is_touched(self, loader: Loader) -> bool:
        return False

    def _check_done(self, loader: Loader, found: dict[str, Any]) -> None:
        """Check nothing: a device reads no page later.

        Tensors with the right digest were on the device when the clock stopped.
        """
