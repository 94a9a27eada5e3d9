"""FUSE filesystems of the tests' own: compiled, mounted over a folder, and removed afterwards."""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.mounts import unmount
from testbed.requirements import require_tools, run_tool

_SOURCES = Path(__file__).parent.parent / "native"


def build_filesystem(name: str, folder: Path) -> Path:
    """Compile tests/native/`name`.c into `folder` and return the program.

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
    program = folder / name
    flags = run_tool("pkg-config", "--cflags", "--libs", "fuse3").split()
    source = str(_SOURCES / f"{name}.c")
    run_tool("gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-o", str(program), source, *flags)
    return program


@contextlib.contextmanager
def fuse_mount(program: Path, source: Path, path: Path, *arguments: str | Path) -> Iterator[None]:
    """Mount the folder `source` at the empty folder `path`.

    Parameters
    ----------
    program
        The result of `build_filesystem`.
    source, path
        Both exist.
    arguments
        Those behind the two folders.

    Raises
    ------
    pytest.skip.Exception
        If there is no FUSE on this machine or it is not allowed here.
    """
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("needs /dev/fuse")
    if os.geteuid() != 0:
        require_tools("fusermount3")
    said = path.with_name(f"{path.name}-said")
    with said.open("wb") as log:
        daemon = subprocess.Popen(
            [program, source, path, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        _wait_until_mounted(path, daemon, said)
        yield
    finally:
        _end(path, daemon)


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
        # Its end closes the connection: waiting reads get an error, and no process stays behind.
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
