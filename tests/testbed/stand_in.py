"""Stand-ins for the surroundings of a benchmark run: its worker, and its models."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

from bench.measure import models


class Made:
    """Files of a test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, name: str) -> Path:
        return models.make(name, self._folder)


class StandIn:
    """A worker with given answers, which records its orders."""

    answer: ClassVar[dict[str, Any]] = {}
    asked: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, job: dict[str, Any], timeout_s: float = 0.0) -> None:
        self.job = job
        self.asked.append(job)

    def __enter__(self) -> StandIn:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def ask(self, order: dict[str, Any], *, sample_memory: bool = False) -> dict[str, Any]:
        self.asked.append(order)
        return dict(self.answer)
