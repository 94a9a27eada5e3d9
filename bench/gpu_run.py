"""The rounds of a case of loads onto a GPU: what is right there, and who is a limit."""

from __future__ import annotations

from typing import Any

from bench import fio, gpu_answers, gpu_limits
from bench.answers import Entry
from bench.contender import Loader
from bench.load_run import LoadRun


class GpuRun(LoadRun):
    """All rounds of one case of loads onto a GPU."""

    def _file_digest(self, entries: list[Entry]) -> str:
        return gpu_answers.file_digest(self._path, entries)

    def _is_missing(self, name: str) -> bool:
        if name == "direct-read" and fio.missing(huge_pages=False) is None:
            self.missing[name] = "fio reads in its place"
            return True
        return super()._is_missing(name)

    def _expected(self, name: str) -> str:
        return "" if name in gpu_limits.NAMES else super()._expected(name)

    def _is_touched(self, loader: Loader) -> bool:
        return False

    def _check_done(self, loader: Loader, found: dict[str, Any]) -> None:
        """Nothing on a device is read later: what has the digest was there when the clock stopped,
        and the file was cold when it started.
        """
