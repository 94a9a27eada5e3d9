"""Fresh processes, each of which measures one contender."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from bench.errors import MeasureError
from bench.measure.process import Sample, anonymous_bytes
from bench.paths import ROOT

WORKER = (sys.executable, "-m", "bench.contenders.worker")
STORE_WORKER = (sys.executable, "-m", "bench.contenders.store_worker")


class Worker:
    """A fresh process that imports, warms itself up, and then measures on order.

    Use as a context manager. The process reads orders as lines of JSON from standard input and
    answers on standard output. Output of libraries goes to standard error.
    """

    def __init__(
        self, job: dict[str, Any], timeout_s: float = 600.0, program: Sequence[str] = WORKER
    ) -> None:
        self._job = job
        self._timeout_s = timeout_s
        self._program = program

    def __enter__(self) -> Worker:
        self._errors = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            self._program,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._orders, self._answers = self._process.stdin, self._process.stdout
        try:
            self.ready = self.ask(self._job)
        except BaseException:
            self._end(kill=True)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end(kill=error is not None)

    def _end(self, *, kill: bool) -> None:
        if kill:
            self._process.kill()
        self._orders.close()
        try:
            self._process.wait(self._timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._answers.close()
        self._errors.close()

    def ask(self, order: dict[str, Any], *, sample_memory: bool = False) -> dict[str, Any]:
        """Give an order and wait for its answer, with samples of memory if asked for.

        Sampling takes some percent of a core, so its rounds are not timed.

        Raises
        ------
        MeasureError
            The worker failed, died or timed out. The message has its last output.
        """
        samples: list[Sample] = []
        begin = time.monotonic()
        deadline = begin + self._timeout_s
        line = b""
        try:
            self._orders.write(json.dumps(order).encode() + b"\n")
            while not line.endswith(b"\n"):
                wait_s = 0.001 if sample_memory else max(0.0, deadline - time.monotonic())
                if select.select([self._answers], [], [], wait_s)[0]:
                    part = self._answers.read(65536)
                    if not part:
                        break
                    line += part
                elif time.monotonic() > deadline:
                    raise MeasureError(f"no answer in {self._timeout_s:.0f} s")
                elif sample_memory and self._process.poll() is None:
                    samples.append((time.monotonic() - begin, anonymous_bytes(self._process.pid)))
        except BrokenPipeError:
            line = b""
        if not line:
            raise MeasureError(f"the worker died: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise MeasureError(str(answer["error"]))
        if sample_memory:
            answer["sampled_peak_bytes"] = max((nbytes for _, nbytes in samples), default=0)
            answer["samples"] = samples
        return answer

    def _last_words(self) -> str:
        code = self._process.wait(10)
        self._errors.seek(0)
        text = self._errors.read().decode(errors="replace").strip()
        return f"exit status {code}: {text[-500:]}"
