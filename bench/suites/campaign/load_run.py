"""The rounds of a case of loads: the file is cold or warm, and loads are complete."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bench.contenders.contender import Loader
from bench.contenders.registry import LOADERS
from bench.errors import MeasureError
from bench.measure import answers, cache
from bench.measure.answers import Entry
from bench.measure.limits import LIMITS
from bench.measure.settings import Settings
from bench.suites.campaign.case import LoadCase
from bench.suites.campaign.run import ModelFiles, Run

# Below this, the kernel's imprecision of RssAnon hides the tensors.
CHECKED_BYTES = 64 * 2**20


class LoadRun(Run):
    """All rounds of one case of loads."""

    _case: LoadCase

    def __init__(
        self,
        case: LoadCase,
        files: ModelFiles,
        settings: Mapping[str, Settings],
        log: Callable[[str], None],
    ) -> None:
        self._loaders = [LOADERS[name] for name in case.contenders if name in LOADERS]
        super().__init__(case, files, settings, log)
        self._names_digest = answers.names_digest(
            entry.name for entry in answers.file_entries(self._path)
        )

    def _entries(self) -> list[Entry]:
        entries = super()._entries()
        if any(loader.gives == "rows" for loader in self._loaders):
            return [answers.middle(entry) for entry in entries]
        return entries

    def _about(self) -> dict[str, Any]:
        return {"cold": self._case.cold, "file_bytes": self._path.stat().st_size}

    def _job(self, name: str) -> dict[str, Any]:
        return {"touch": self._is_touched(LOADERS[name])}

    def _prepare(self) -> None:
        if self._case.cold:
            cache.evict(self._path)
        else:
            cache.populate(self._path)

    def _is_prepared(self) -> bool:
        found = cache.resident_pages(self._path)
        return found == (0 if self._case.cold else cache.page_count(self._path))

    def _limit(self, name: str) -> dict[str, float]:
        return LIMITS[name].run(self._path, self._settings[name], self._path.stat().st_size)

    def _has_speed(self, name: str) -> bool:
        return name not in LOADERS or LOADERS[name].gives != "names"

    def _is_touched(self, loader: Loader) -> bool:
        if loader.gives == "names" or loader.place == "nowhere":
            return False
        return loader.place == "mapped" or not self._case.cold or self._case.touched

    def _expected(self, name: str) -> str:
        return self._names_digest if LOADERS[name].gives == "names" else self._digest

    def _check(self, name: str, found: dict[str, Any], digest: str) -> None:
        """Accept a measurement only if its tensors are right and were read within the clock.

        Raises
        ------
        MeasureError
            The tensors are wrong, or were not read.
        """
        super()._check(name, found, digest)
        loader = LOADERS[name]
        if self._case.cold and not self._is_touched(loader) and loader.gives != "names":
            self._check_done(loader, found)

    def _check_done(self, loader: Loader, found: dict[str, Any]) -> None:
        """Accept a load if all bytes are in memory now, or were read from storage."""
        if self._tensor_bytes < CHECKED_BYTES:
            return
        fresh = loader.place == "fresh"
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
