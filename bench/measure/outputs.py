"""Where savers write: a folder that is empty, on a disk that is at rest.

A file that goes makes discards (where the filesystem is mounted so), and dirty pages of one
contender are written back while the next is timed: so each measurement waits until the disk has
done with what came before.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from bench.errors import MeasureError

# At rest: so long a time in which the disk was busy for no more than that share.
QUIET_S = 0.5
BUSY_SHARE_MAX = 0.05
TIMEOUT_S = 120.0
# The kernel's documentation, block/stat.rst: milliseconds in which requests were in flight.
IO_TICKS = 9


class Outputs:
    """A folder of its own, with one contender's output at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def beside(cls, model: Path) -> Outputs:
        """Return the folder on the filesystem of a model's file."""
        return cls(model.parent / "saved")

    def path(self, name: str) -> Path:
        """Return where a contender writes."""
        return self._folder / f"{name}.saved"

    def clear(self) -> None:
        """Remove all that was written, whatever it is called.

        Raises
        ------
        OSError
            Something could not be removed, or the folder not be made.
        """
        self.remove()
        self._folder.mkdir(parents=True)

    def remove(self) -> None:
        """Remove all that was written, and the folder.

        Raises
        ------
        OSError
            Something could not be removed.
        """
        if self._folder.exists():
            shutil.rmtree(self._folder)

    def settle(self) -> None:
        """Remove all that was written, and wait until the disk is at rest.

        Raises
        ------
        OSError
            As `clear` does.
        MeasureError
            Something else keeps the disk busy.
        """
        self.clear()
        os.sync()
        number = self._folder.stat().st_dev
        # The filesystem may be on a partition, or in memory.
        statistics = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/stat")
        if statistics.exists():
            wait_until_quiet(statistics)


def wait_until_quiet(statistics: Path) -> None:
    """Wait until a block device has been at rest for half a second.

    Raises
    ------
    MeasureError
        It has not been within two minutes.
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
