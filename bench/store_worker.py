"""A fresh process that loads, saves or opens once, and says how long that took.

python -m bench.store_worker '{"do": "load", "source": PATH, …}'
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from bench import answers
from bench.harness import anonymous_bytes


def main() -> None:
    """Do what the first argument says, and print what it took as JSON."""
    order: dict[str, Any] = json.loads(sys.argv[1])
    import torch  # what most tensors are; imported before the clock starts

    import fastio.store.store  # else it is imported when a store is first named

    assert torch.get_num_threads()
    if order.get("group"):
        (Path(order["group"]) / "cgroup.procs").write_text(f"{os.getpid()}\n")
    print(json.dumps({"load": _load, "save": _save, "open": _open}[order["do"]](fastio, order)))


def _load(fastio: Any, order: dict[str, Any]) -> dict[str, Any]:
    report = fastio.Report()
    begin, cpu = time.perf_counter(), time.process_time()
    if order["roots"]:
        with fastio.Store.open(order["roots"]) as store:
            tensors = store.load(framework="torch", report=report)
    else:
        tensors = fastio.load(order["source"], framework="torch", report=report)
    seconds, cpu_s = time.perf_counter() - begin, time.process_time() - cpu
    assert report.chunks_verified
    return {
        "seconds": seconds,
        "cpu_s": cpu_s,
        "fallbacks": len(report.fallbacks),
        "digest": answers.digest(tensors),
    }


def _save(fastio: Any, order: dict[str, Any]) -> dict[str, Any]:
    tensors = fastio.load(order["source"], framework="torch")
    store = fastio.Store.create(order["roots"], replicas=order["replicas"])
    begin, cpu = time.perf_counter(), time.process_time()
    store.save(tensors)
    return {"seconds": time.perf_counter() - begin, "cpu_s": time.process_time() - cpu}


def _open(fastio: Any, order: dict[str, Any]) -> dict[str, Any]:
    before = anonymous_bytes()
    begin, cpu = time.perf_counter(), time.process_time()
    store = fastio.Store.open(order["roots"])
    reader = store.open()
    seconds, cpu_s = time.perf_counter() - begin, time.process_time() - cpu
    names = len(reader)
    return {
        "seconds": seconds,
        "cpu_s": cpu_s,
        "tensors": names,
        "held_bytes": anonymous_bytes() - before,
    }


if __name__ == "__main__":
    main()
