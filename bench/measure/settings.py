"""Settings of a limit, and the search for the fastest ones."""

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
    """A setting that the search may choose.

    Attributes
    ----------
    block_mib : int
        Size of a request, in MiB.
    depth : int
        Requests in flight of each job.
    jobs : int
        Threads, each with its own part of the file.
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
    """The settings that the search tries.

    Attributes
    ----------
    blocks_mib, depths, jobs : tuple of int
        The values of each setting.
    finalists, final_rounds : int
        How many of the fastest run on all bytes, and how often.
    """

    blocks_mib: tuple[int, ...] = (1, 2, 4, 8)
    depths: tuple[int, ...] = (4, 8, 16, 32)
    jobs: tuple[int, ...] = (1, 2)
    finalists: int = 4
    final_rounds: int = 4

    def settings(self) -> list[Settings]:
        """Return every combination."""
        return [Settings(*each) for each in product(self.blocks_mib, self.depths, self.jobs)]


# Takes settings and a number of bytes (None: all); returns `bytes_per_s` and `cpu_s`.
Trial = Callable[[Settings, "int | None"], dict[str, float]]


def search(run: Trial, grid: Grid) -> tuple[Settings, list[dict[str, Any]]]:
    """Find the fastest settings.

    Every combination runs on 512 MiB, in order and in reverse, so that a drift falls on all alike.
    Then the fastest ones run on all bytes, in mirrored rounds. After the first part alone, the
    luckiest single run would win.

    Parameters
    ----------
    run : callable
        Takes settings and a number of bytes (None: all); returns `bytes_per_s` and `cpu_s`.
    grid : Grid
        The settings to try.

    Returns
    -------
    Settings
        The fastest by its median in the second part.
    list of dict
        Every run.

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
