"""Settings of what a limit is measured with, and the search for the fastest ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from bench.measure.rounds import rounds
from bench.measure.statistics import median

MIB = 2**20
SEARCH_BYTES = 2**29


@dataclass(frozen=True, order=True)
class Settings:
    """What the search may choose.

    Attributes
    ----------
    block_mib : int
        Size of a request, in MiB.
    depth : int
        Requests in flight, of each job.
    jobs : int
        Threads, each with a part of the file of its own.
    """

    block_mib: int
    depth: int
    jobs: int

    def __str__(self) -> str:
        return f"{self.block_mib} MiB x {self.depth} x {self.jobs}"

    def text(self) -> str:
        """Return `BLOCK_MIB:DEPTH:JOBS`, which `parse` reads."""
        return f"{self.block_mib}:{self.depth}:{self.jobs}"

    @classmethod
    def parse(cls, text: str) -> Settings:
        """Read `BLOCK_MIB:DEPTH:JOBS`.

        Raises
        ------
        ValueError
            The text is not three numbers.
        """
        block_mib, depth, jobs = (int(part) for part in text.split(":"))
        return cls(block_mib, depth, jobs)


@dataclass(frozen=True)
class Grid:
    """What the search tries.

    Attributes
    ----------
    blocks_mib, depths, jobs : tuple of int
        Of each setting.
    finalists, final_rounds : int
        How many of the best run on everything, and how often.
    """

    blocks_mib: tuple[int, ...] = (1, 2, 4, 8)
    depths: tuple[int, ...] = (4, 8, 16, 32)
    jobs: tuple[int, ...] = (1, 2)
    finalists: int = 4
    final_rounds: int = 4

    def settings(self) -> list[Settings]:
        """Return every combination."""
        return [Settings(*each) for each in product(self.blocks_mib, self.depths, self.jobs)]


# From settings, and a number of bytes or None for all, to bytes a second and CPU seconds.
Trial = Callable[[Settings, "int | None"], dict[str, float]]


def search(run: Trial, grid: Grid) -> tuple[Settings, list[dict[str, Any]]]:
    """Find the fastest settings.

    Every combination on 512 MiB, there and back, so that a drift falls on all of them; then the
    best on everything, in mirrored rounds. Single runs differ, so the winner of the first part
    alone would be the luckiest one.

    Parameters
    ----------
    run : callable
        From settings, and a number of bytes or None for all, to `bytes_per_s` and `cpu_s`.
    grid : Grid
        What to try.

    Returns
    -------
    Settings
        The winner by its median in the second part.
    list of dict
        Every run, for the record.

    Raises
    ------
    MeasureError
        A run failed.
    """
    runs: list[dict[str, Any]] = []
    speeds: dict[Settings, list[float]] = {}

    def tried(settings: Settings, nbytes: int | None) -> None:
        speed = run(settings, nbytes)["bytes_per_s"]
        speeds.setdefault(settings, []).append(speed)
        runs.append(asdict(settings) | {"bytes": nbytes, "gb_per_s": round(speed / 1e9, 3)})

    combinations = grid.settings()
    for settings in (*combinations, *reversed(combinations)):
        tried(settings, SEARCH_BYTES)
    finalists = sorted(combinations, key=lambda settings: -sum(speeds[settings]))[: grid.finalists]
    speeds.clear()
    names = [str(index) for index in range(len(finalists))]
    for order in rounds(names, grid.final_rounds):
        for name in order:
            tried(finalists[int(name)], None)
    return max(finalists, key=lambda settings: median(speeds[settings])), runs
