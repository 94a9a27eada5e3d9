"""The folder that savers write to: empty, on a disk that is at rest.

Removed files cause discards if the filesystem is mounted with `discard`. Dirty pages of one
contender may be written back while the next is timed. So each measurement waits for the disk.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from bench.errors import MeasureError

# A disk is at rest if it was busy for at most this share of this time.
QUIET_S = 0.5
BUSY_SHARE_MAX = 0.05
TIMEOUT_S = 120.0
# Milliseconds with requests in flight: block/stat.rst of the kernel's documentation.
IO_TICKS = 9


class Outputs:
    """A folder with one contender's output at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def beside(cls, model: Path) -> Outputs:
        """Return the folder on the filesystem of a model's file."""
        return cls(model.parent / "saved")

    def path(self, name: str) -> Path:
        """Return the path that a contender writes."""
        return self._folder / f"{name}.saved"

    def clear(self) -> None:
        """Empty the folder.

        Raises
        ------
        OSError
            A file could not be removed, or the folder not be created.
        """
        self.remove()
        self._folder.mkdir(parents=True)

    def remove(self) -> None:
        """Remove the folder and its files.

        Raises
        ------
        OSError
            A file could not be removed.
        """
        if self._folder.exists():
            shutil.rmtree(self._folder)

    def settle(self) -> None:
        """Empty the folder, and wait until the disk is at rest.

        Raises
        ------
        OSError
            As `clear` does.
        MeasureError
            Another process keeps the disk busy.
        """
        self.clear()
        os.sync()
        number = self._folder.stat().st_dev
        # The filesystem may be on a partition, or in memory.
        statistics = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/stat")
        if statistics.exists():
            wait_until_quiet(statistics)


def wait_until_quiet(statistics: Path) -> None:
    """Wait until a disk has been at rest for half a second.

    Raises
    ------
    MeasureError
        It was busy for two minutes.
    """
    deadline = time.monotonic() + TIMEOUT_S
    share = 1.0
    while time.monotonic() < deadline:
        busy, begin = _busy_ms(statistics), time.monotonic()
        time.sleep(QUIET_S)
        share = (_busy_ms(statistics) - busy) / 1000 / (time.monotonic() - begin)
        if share <= BUSY_SHARE_MAX:
            return
    raise MeasureError(
        f"something else keeps the disk busy, {100 * share:.0f} % of the last {QUIET_S} s"
    )


def _busy_ms(statistics: Path) -> int:
    return int(statistics.read_text().split()[IO_TICKS])
