"""The process that one measurement runs in. `workers.Worker` starts it and gives it orders.

It imports and warms itself up before the clock starts. The order `measure` loads or saves once.
`digest` returns the digest of the loaded tensors or of the written file. `prepare` drops them and
prepares the next measurement. Standard output is the channel, so output of libraries goes to
standard error.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from bench.contenders.contender import Answer, Attempt, Loader, Saver
from bench.contenders.registry import LOADERS, SAVERS
from bench.measure import answers
from bench.measure.process import (
    anonymous_bytes,
    cpu_seconds,
    machine_busy_seconds,
    reset_peak,
    status_bytes,
    storage_bytes,
)
from bench.paths import ROOT

NOTES = (
    "engine",
    "engine_reason",
    "cache",
    "cache_reason",
    "lanes",
    "fallbacks",
    "chunks_verified",
)


class Measurement:
    """The orders of one contender on one model.

    Parameters
    ----------
    contender : Loader or Saver
    path : str
        The model's file.
    target : str
        Where a saver writes; a loader needs none.
    touch : bool
        The tensors are touched inside the clock.
    """

    def __init__(
        self, contender: Loader | Saver, path: str, target: str = "", *, touch: bool
    ) -> None:
        self._path = path
        self._touch = touch
        self._make_given = contender.prepare
        self._account = contender.account if isinstance(contender, Loader) else None
        # The call that is timed, and its path.
        if isinstance(contender, Saver):
            self._act, self._attempted = contender.save, target
        else:
            self._act, self._attempted = contender.load, path
        self._tensors: Mapping[str, Any] = {}
        self._given: Mapping[str, Any] = {}

    def prepare(self) -> dict[str, Any]:
        """Drop the loaded tensors, whose mapped pages cannot be evicted, and prepare a call."""
        self._tensors = self._given = {}
        if self._make_given is not None:
            self._given = self._make_given(self._path)
        return {"prepared": True}

    def measure(self) -> dict[str, Any]:
        """Load or save once, touch the tensors if the case says so, and return the figures."""
        self._tensors = {}
        attempt = Attempt(self._attempted, self._given)
        reset_peak()
        anonymous, resident = anonymous_bytes(), status_bytes("VmRSS")
        stored = storage_bytes()
        busy, cpu, begin = machine_busy_seconds(), cpu_seconds(), time.perf_counter()
        self._tensors = self._act(attempt)
        loaded = time.perf_counter()
        pages = answers.touch(self._tensors) if self._touch else 0
        end = time.perf_counter()
        cpu = cpu_seconds() - cpu
        busy = machine_busy_seconds() - busy
        stored_after = storage_bytes()
        if self._account is not None:
            self._account(attempt)
        return {
            "seconds": end - begin,
            **({"touch_s": end - loaded} if self._touch else {}),
            "cpu_s": cpu,
            "foreign_cpu_s": max(0.0, busy - cpu),
            "pages_touched": pages,
            "anonymous_bytes": anonymous_bytes() - anonymous,
            "anonymous_before_bytes": anonymous,
            "peak_rss_bytes": status_bytes("VmHWM") - resident,
            "storage_bytes": None
            if stored is None or stored_after is None
            else stored_after - stored,
            "figures": attempt.figures,
            "notes": {
                name: getattr(attempt.report, name)
                for name in NOTES
                if hasattr(attempt.report, name)
            },
        }

    def digest(self) -> dict[str, Any]:
        """Return the digest of the last load or save."""
        if isinstance(self._tensors, Answer):
            return {"digest": self._tensors.digest()}
        return {"digest": answers.digest(self._tensors)}


def contender_of(name: str) -> Loader | Saver:
    """Return the contender of a name.

    Raises
    ------
    KeyError
        There is none.
    """
    return SAVERS[name] if name in SAVERS else LOADERS[name]


def warm_up(contender: Loader | Saver, job: dict[str, Any]) -> None:
    """Measure a tiny file twice.

    The second call finds all that the first one made once for the process. Written files are
    removed with their folder when the disk is put to rest.
    """
    touch = isinstance(contender, Loader) and contender.gives != "names"
    for index in range(2):
        warm = Measurement(contender, job["warm"], f"{job.get('target')}.warm{index}", touch=touch)
        warm.prepare()
        warm.measure()
        warm.digest()


def begin(order: dict[str, Any]) -> Measurement:
    """Import what a contender needs, warm it, and return its measurement."""
    contender = contender_of(order["contender"])
    if contender.site:
        sys.path.insert(0, str(ROOT / contender.site))
    for module in contender.modules:
        importlib.import_module(module)
    warm_up(contender, order)
    return Measurement(contender, order["path"], order.get("target", ""), touch=order["touch"])


def serve(
    orders: BinaryIO, channel: BinaryIO, begin: Callable[[dict[str, Any]], object] = begin
) -> None:
    """Take a job, then orders, until standard input ends.

    Parameters
    ----------
    orders, channel : file
        Lines of JSON, in and out.
    begin : callable
        Takes the job; returns an object with a method for each order.
    """
    measurement: object | None = None
    for line in orders:
        order = json.loads(line)
        try:
            if measurement is None:
                measurement = begin(order)
                answer: dict[str, Any] = {"ready": True}
            else:
                answer = getattr(measurement, order["do"])()
        # Any exception of a contender is an answer of the protocol.
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        channel.write(json.dumps(answer, default=str).encode() + b"\n")
        channel.flush()


def main(begin: Callable[[dict[str, Any]], object] = begin) -> None:
    """Serve, with standard output kept for the protocol."""
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, channel, begin)
    channel.close()
    # Freeing gigabytes tensor by tensor takes time, and nobody measures it.
    os._exit(0)


if __name__ == "__main__":
    main()
