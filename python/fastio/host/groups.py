"""The control groups of this process: where each says what it allows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def groups_of(controller: str, root: Path) -> Iterator[tuple[Path, bool]]:
    """Yield the folder of each group that a controller has over this process, the inner one first.

    With it comes whether it is one of version 2: files have other names there.

    Source: docs.kernel.org/admin-guide/cgroup-v2.html and cgroup-v1/cgroups.html

    Parameters
    ----------
    controller : str
        Such as ``memory``, as version 1 names it.
    root : pathlib.Path
        Where ``proc`` and ``sys`` are mounted.

    Raises
    ------
    Nothing.
    """
    for line in lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / (controller if controllers else "")
        own = PurePosixPath(path.strip("/"))
        for group in (own, *own.parents):
            yield top / group, not controllers


def lines(path: Path) -> list[str]:
    """Return the lines of a file of the kernel; none where it cannot be read.

    Raises
    ------
    Nothing.
    """
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def number(path: Path) -> int | None:
    """Return the number that a file of the kernel is; None where it is another text, as ``max``.

    Raises
    ------
    Nothing.
    """
    text = "".join(lines(path)).strip()
    return int(text) if text.isdecimal() else None
