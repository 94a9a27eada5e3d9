"""The process that loads, saves, opens or verifies a store once, as `workers.Worker` orders.

The job names the roots and one of the four calls. `prepare` does what is not measured. `measure`
makes the call and returns its figures.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from bench.contenders import worker
from bench.measure import answers
from bench.measure.process import anonymous_bytes, reset_peak, status_bytes


class StoreMeasurement:
    """The orders of one job: {"do": "load" | "save" | "open" | "verify", "roots": […], …}."""

    def __init__(self, job: dict[str, Any]) -> None:
        import torch  # imported before the clock starts

        import fastio.store.store  # otherwise imported when a store is first named

        assert torch.get_num_threads()
        self._fastio: Any = fastio
        self._job = job
        ways = {
            "load": self._load,
            "save": self._save,
            "open": self._open,
            "verify": self._verify,
        }
        self._measure = ways[job["do"]]
        self._given: tuple[Any, Any] | None = None
        if job.get("group"):
            (Path(job["group"]) / "cgroup.procs").write_text(f"{os.getpid()}\n")

    def prepare(self) -> dict[str, Any]:
        """Read the tensors of a save, and create an empty store for them."""
        if self._job["do"] == "save":
            tensors = self._fastio.load(self._job["source"], framework="torch")
            roots, replicas = self._job["roots"], self._job["replicas"]
            store = self._fastio.Store.create(
                roots, replicas=replicas, shard_bytes=self._job.get("shard_bytes")
            )
            self._given = tensors, store
        return {"prepared": True}

    def measure(self) -> dict[str, Any]:
        """Make the call once, and return its figures."""
        return self._measure()

    def _load(self) -> dict[str, Any]:
        roots = self._job["roots"]
        report = self._fastio.Report()
        begin, cpu = time.perf_counter(), time.process_time()
        if roots:
            with self._fastio.Store.open(roots) as store:
                tensors = store.load(framework="torch", report=report)
        else:
            tensors = self._fastio.load(self._job["source"], framework="torch", report=report)
        seconds, cpu_s = time.perf_counter() - begin, time.process_time() - cpu
        assert report.chunks_verified
        return {
            "seconds": seconds,
            "cpu_s": cpu_s,
            "fallbacks": len(report.fallbacks),
            "digest": answers.digest(tensors),
        }

    def _save(self) -> dict[str, Any]:
        assert self._given is not None
        tensors, store = self._given
        begin, cpu = time.perf_counter(), time.process_time()
        store.save(tensors)
        return {"seconds": time.perf_counter() - begin, "cpu_s": time.process_time() - cpu}

    def _verify(self) -> dict[str, Any]:
        reset_peak()
        resident = status_bytes("VmRSS")
        begin, cpu = time.perf_counter(), time.process_time()
        with self._fastio.Store.open(self._job["roots"]) as store:
            found = store.verify()
        seconds, cpu_s = time.perf_counter() - begin, time.process_time() - cpu
        return {
            "seconds": seconds,
            "cpu_s": cpu_s,
            "peak_rss_bytes": max(0, status_bytes("VmHWM") - resident),
            "nbytes": found.nbytes,
            "damaged": sorted(event.path for event in found.damaged),
        }

    def _open(self) -> dict[str, Any]:
        before = anonymous_bytes()
        begin, cpu = time.perf_counter(), time.process_time()
        store = self._fastio.Store.open(self._job["roots"])
        reader = store.reader()
        seconds, cpu_s = time.perf_counter() - begin, time.process_time() - cpu
        return {
            "seconds": seconds,
            "cpu_s": cpu_s,
            "tensors": len(reader),
            "held_bytes": anonymous_bytes() - before,
        }


if __name__ == "__main__":
    worker.main(StoreMeasurement)
