"""A disk that answers late or not at all: a FUSE filesystem over a folder, without O_TMPFILE, that
delays reads, and hangs in one operation when told to.
"""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from testbed.mounts import unmount
from testbed.requirements import require_tools, run_tool

_SOURCE = Path(__file__).parent.parent / "native" / "fuse_delay.c"


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

    def hang_in(self, operation: Literal["write", "fsync"]) -> None:
        """The same for writes, or for fsync; reads go on."""
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
    """Compile tests/native/fuse_delay.c into `folder` and return the program.

    Raises
    ------
    pytest.skip.Exception
        If the compiler or libfuse3 is missing.
    RuntimeError
        If it does not compile.
    """
    require_tools("gcc", "pkg-config")
    if subprocess.run(["pkg-config", "--exists", "fuse3"], check=False).returncode != 0:
        pytest.skip("needs libfuse3's headers")
    program = folder / "fuse_delay"
    flags = run_tool("pkg-config", "--cflags", "--libs", "fuse3").split()
    run_tool("gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(_SOURCE), *flags)
    return program


@contextlib.contextmanager
def slow_mount(program: Path, folder: Path) -> Iterator[SlowMount]:
    """Mount `folder`/source at `folder`/mnt, without any delay at first.

    Parameters
    ----------
    program
        What `build_slow_filesystem` returned.
    folder
        An empty folder; its source/ stays.

    Raises
    ------
    pytest.skip.Exception
        If there is no FUSE on this machine or it is not allowed here.
    """
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("needs /dev/fuse")
    if os.geteuid() != 0:
        require_tools("fusermount3")
    mount = SlowMount(folder / "mnt", folder / "source", folder / "control")
    mount.path.mkdir()
    mount.source.mkdir()
    mount.release()
    said = folder / "said"
    with said.open("wb") as log:
        daemon = subprocess.Popen(
            [program, mount.source, mount.path, mount.control],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        _wait_until_mounted(mount.path, daemon, said)
        yield mount
    finally:
        mount.release()
        _end(mount.path, daemon)


def _wait_until_mounted(path: Path, daemon: "subprocess.Popen[bytes]", said: Path) -> None:
    deadline = time.monotonic() + 10
    while not path.is_mount():
        if daemon.poll() is not None or time.monotonic() > deadline:
            pytest.skip(f"this machine refuses FUSE: {said.read_text(errors='replace').strip()}")
        time.sleep(0.005)


def _end(path: Path, daemon: "subprocess.Popen[bytes]") -> None:
    daemon.terminate()  # unmounts
    try:
        daemon.wait(timeout=5)
    except subprocess.TimeoutExpired:
        # Its end closes the connection: reads that wait get an error, no process stays behind.
        daemon.kill()
        daemon.wait()
    with contextlib.suppress(OSError):
        if not path.is_mount():
            return
    if os.geteuid() == 0:
        with contextlib.suppress(RuntimeError):
            unmount(path)
    elif shutil.which("fusermount3"):
        subprocess.run(["fusermount3", "-uz", path], check=False, capture_output=True)
