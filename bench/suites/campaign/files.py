"""The model files of a run: made once, sealed, and removed at its end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.contenders.contender import is_installed
from bench.measure import models


class Files:
    """The models of a run: made once, and sealed if fastio is installed."""

    def __init__(self, folder: Path, log: Callable[[str], None]) -> None:
        self._folder = folder
        self._log = log
        self._made: dict[str, Path] = {}
        self._own: list[Path] = []
        self.sealed = is_installed("fastio")

    def get(self, name: str) -> Path:
        """Return the path of a model, which is made on the first call."""
        if name not in self._made:
            self._log(f"making {name}")
            known = set(self._folder.glob("*"))
            path = models.make(name, self._folder)
            if path not in known:
                self._own.append(path)
            if self.sealed:
                import fastio

                # In place, so that one file stays. A sealed one is left as it is.
                fastio.seal(path)
            self._made[name] = path
        return self._made[name]

    def remove(self) -> None:
        """Remove the files of this run, and the folder if it is empty then."""
        for path in self._own:
            path.unlink(missing_ok=True)
        if not any(self._folder.iterdir()):
            self._folder.rmdir()
