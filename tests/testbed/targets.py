"""Files that are being written, with a watcher, or with a step that fails."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastio import _native
from fastio.errors import WriteError

STEPS = ("fallocate", "write", "ftruncate", "fsync")

Before = Callable[[str, "WatchedTarget", tuple[Any, ...]], None]


class WatchedTarget:
    """A `_native.TargetFile` that calls `before` with the name of each step, itself and the step's
    arguments.
    """

    before: Before

    def __init__(self, fd: int, path: Path, reopened_as: str) -> None:
        self.fd = fd
        self.path = path
        self._real = _TargetFile(fd, path, reopened_as)

    def reserve(self, nbytes: int) -> bool:
        self.before("fallocate", self, (nbytes,))
        return self._real.reserve(nbytes)

    def write(self, offset: int, data: bytes) -> None:
        self.before("write", self, (offset, data))
        self._real.write(offset, data)

    def truncate(self, nbytes: int) -> None:
        self.before("ftruncate", self, (nbytes,))
        self._real.truncate(nbytes)

    def sync(self) -> None:
        self.before("fsync", self, ())
        self._real.sync()


_TargetFile = _native.TargetFile


def watch_targets(monkeypatch: pytest.MonkeyPatch, before: Before) -> None:
    """Watch all files that are written from now on. Only for writers that use `TargetFile`; the
    lanes of a save do not.
    """
    watched = type("WatchedHere", (WatchedTarget,), {"before": staticmethod(before)})
    monkeypatch.setattr(_native, "TargetFile", watched)


def refuse_nameless_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let O_TMPFILE fail on every filesystem, as some lack it."""
    real = os.open

    def refusing(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return real(path, flags, *more, **named)

    monkeypatch.setattr(os, "open", refusing)


def fail_at(monkeypatch: pytest.MonkeyPatch, step: str, call: int, error: int) -> None:
    """Let the n-th time of a step fail: one of `STEPS`, or a function of os."""
    calls = iter(range(1, 1000))
    if step in STEPS:

        def failing(name: str, target: WatchedTarget, arguments: tuple[Any, ...]) -> None:
            if name == step and next(calls) == call:
                at = arguments[0] if name == "write" else None
                raise WriteError(error, name, target.path, at)

        watch_targets(monkeypatch, failing)
        return
    real: Callable[..., Any] = getattr(os, step)

    def failing_call(*arguments: Any, **more: Any) -> Any:
        if next(calls) == call:
            raise OSError(error, os.strerror(error))
        return real(*arguments, **more)

    monkeypatch.setattr(os, step, failing_call)
