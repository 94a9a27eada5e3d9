"""The limits of the disk: programs that only read or write a file.

The settings of each are searched once and then fixed for every round (`settings`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bench.measure import bare_reader, fio
from bench.measure.settings import Grid, Settings


@dataclass(frozen=True)
class Limit:
    """A program that only reads or writes a file.

    Attributes
    ----------
    name, title : str
        In JSON; in tables and pictures.
    way : {"read", "write"}
        It reads the model's file, or writes one of its size.
    missing : callable
        Returns the reason why it cannot run here, or None.
    run : callable
        Takes a path, settings and a number of bytes; returns `bytes_per_s` and `cpu_s`.
    grid : Grid
        The settings that the search tries.
    """

    name: str
    title: str
    way: Literal["read", "write"]
    missing: Callable[[], str | None]
    run: Callable[[Path, Settings, int], dict[str, float]]
    grid: Grid = field(default_factory=Grid)


FIO, FIO_WRITE, READER = "fio", "fio-write", "native-reader"
LIMITS = {
    limit.name: limit
    for limit in (
        Limit(FIO, "fio, io_uring, direct, huge pages", "read", fio.missing, fio.read),
        Limit(
            FIO_WRITE,
            "fio, io_uring, direct, huge pages, end_fsync",
            "write",
            fio.missing,
            fio.write,
            # One file is written from its beginning to its end, as a save is.
            Grid(jobs=(1,)),
        ),
        Limit(
            READER,
            "bare reader, io_uring, direct, huge pages",
            "read",
            bare_reader.missing,
            bare_reader.read,
            bare_reader.GRID,
        ),
    )
}
