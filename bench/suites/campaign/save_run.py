"""The rounds of a case of saves: each writes a new file, on a disk that is at rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bench.contenders.registry import SAVERS
from bench.measure.limits import LIMITS
from bench.measure.outputs import Outputs
from bench.measure.settings import Settings
from bench.suites.campaign.case import SaveCase
from bench.suites.campaign.run import ModelFiles, Run


class SaveRun(Run):
    """All rounds of one case of saves. Their files are removed at the end."""

    def __init__(
        self,
        case: SaveCase,
        files: ModelFiles,
        settings: Mapping[str, Settings],
        log: Callable[[str], None],
    ) -> None:
        super().__init__(case, files, settings, log)
        self._outputs = Outputs.beside(self._path)

    def run(self, count: int) -> dict[str, Any]:
        """Measure `count` rounds and return what the JSON says of the case."""
        try:
            return super().run(count)
        finally:
            self._outputs.remove()

    def _about(self) -> dict[str, Any]:
        return {}

    def _job(self, name: str) -> dict[str, Any]:
        # Before the worker warms itself up there.
        self._outputs.clear()
        return {"touch": False, "target": str(self._outputs.path(name))}

    def _prepare(self) -> None:
        self._outputs.settle()

    def _limit(self, name: str) -> dict[str, float]:
        return LIMITS[name].run(self._outputs.path(name), self._settings[name], self._tensor_bytes)

    def _has_speed(self, name: str) -> bool:
        return name not in SAVERS or not SAVERS[name].returns_early
