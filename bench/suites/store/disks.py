"""Slow disks made of one fast one: filesystems on loop devices, held to a rate by a cgroup.

Needs root, loop devices and the blkio controller of cgroup v1.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.errors import MeasureError

_BLKIO = Path("/sys/fs/cgroup/blkio")


class Disks:
    """Mounted filesystems, each on a loop device of its own.

    Attributes
    ----------
    paths : list of pathlib.Path
        Where they are mounted.
    group : pathlib.Path
        The cgroup whose processes are held to the rate.
    """

    def __init__(self, paths: Sequence[Path], loops: Sequence[str], group: Path) -> None:
        self.paths = list(paths)
        self._loops = list(loops)
        self.group = group

    def hold_to(self, bytes_s: int | None) -> None:
        """Limit the group's reads and writes on each disk, in bytes a second; None: no limit."""
        for name in ("read", "write"):
            for loop in self._loops:
                limit = f"{loop} {bytes_s or 0}\n"
                (self.group / f"blkio.throttle.{name}_bps_device").write_text(limit)


@contextlib.contextmanager
def slow_disks(folder: Path, count: int, nbytes: int) -> Iterator[Disks]:
    """Mount `count` ext4 of `nbytes` each below a folder, and remove them afterwards.

    Raises
    ------
    MeasureError
        This machine cannot do it. The message has the reason.
    """
    if os.geteuid() != 0:
        raise MeasureError("slow disks need root")
    if not (_BLKIO / "blkio.throttle.read_bps_device").exists():
        raise MeasureError("slow disks need the blkio controller of cgroup v1")
    with contextlib.ExitStack() as made:
        paths, loops = [], []
        for at in range(count):
            path, loop = made.enter_context(_disk(folder / f"disk{at}", nbytes))
            paths.append(path)
            loops.append(loop)
        group = _BLKIO / f"fastio-bench-{os.getpid()}"
        group.mkdir()
        made.callback(group.rmdir)
        yield Disks(paths, loops, group)


@contextlib.contextmanager
def _disk(folder: Path, nbytes: int) -> Iterator[tuple[Path, str]]:
    folder.mkdir(parents=True)
    image, path = folder / "image", folder / "mnt"
    path.mkdir()
    try:
        with image.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, nbytes)
        loop = _run("losetup", "--find", "--show", "--direct-io=on", str(image)).strip()
        try:
            _run("mkfs.ext4", "-q", "-F", "-E", "nodiscard", loop)
            _run("mount", "-o", "noatime", loop, str(path))
        finally:
            _run("losetup", "-d", loop)  # the kernel detaches it when it is unmounted
        try:
            (path / "lost+found").rmdir()
            status = os.stat(loop)
            yield path, f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
        finally:
            _run("umount", str(path))
    finally:
        image.unlink(missing_ok=True)
        path.rmdir()
        folder.rmdir()


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", "") or str(error)
        raise MeasureError(f"{' '.join(command)}: {said.strip()}") from error
    return done.stdout
