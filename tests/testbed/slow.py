"""A disk that answers late or not at all: a FUSE filesystem over a folder, without O_TMPFILE. It
delays reads, and hangs in one operation on request.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from testbed.fuse import build_filesystem, fuse_mount


@dataclass(frozen=True)
class SlowMount:
    """`path` shows the files of `source`; both can be read and written."""

    path: Path
    source: Path
    control: Path

    def delay(self, seconds: float) -> None:
        """Reads that start from now on take `seconds` longer."""
        self._say(str(round(seconds * 1e6)))

    def hang(self) -> None:
        """Reads that start from now on do not return before `release`."""
        self._say("hang")

    def hang_in(self, operation: Literal["open", "write", "fsync"]) -> None:
        """The same for opening a file, for writes, or for fsync; reads go on."""
        self._say(f"hang {operation}")

    def release(self) -> None:
        """All go on, without delay."""
        self._say("0")

    def _say(self, text: str) -> None:
        # Renamed into place: the filesystem never sees half of it.
        fresh = self.control.with_suffix(".new")
        fresh.write_text(text, encoding="ascii")
        fresh.replace(self.control)


def build_slow_filesystem(folder: Path) -> Path:
    """Compile tests/native/fuse_delay.c into `folder`, as `build_filesystem` does."""
    return build_filesystem("fuse_delay", folder)


@contextlib.contextmanager
def slow_mount(program: Path, folder: Path) -> Iterator[SlowMount]:
    """Mount `folder`/source at `folder`/mnt, without any delay at first.

    Parameters
    ----------
    program
        The result of `build_slow_filesystem`.
    folder
        An empty folder; its source/ stays.

    Raises
    ------
    pytest.skip.Exception
        If there is no FUSE on this machine or it is not allowed here.
    """
    mount = SlowMount(folder / "mnt", folder / "source", folder / "control")
    mount.path.mkdir()
    mount.source.mkdir()
    mount.release()
    with fuse_mount(program, mount.source, mount.path, mount.control):
        try:
            yield mount
        finally:
            mount.release()
