"""Writers that die at a step of the protocol: before or after each file that they put or remove."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fastio.errors import ReplicaError
from fastio.storage.folder import Folder
from fastio.storage.protocol import FILE_MODE
from fastio.store import repair, replacing
from fastio.store.commit import Session
from fastio.store.layout import SHARDS
from fastio.store.manifest import EncodedManifest, Manifest
from fastio.store.members import Members
from fastio.store.root import Root

STEPS_MOST = 40
_STEPS = ("put_if_absent", "replace", "remove")
_LEFT = ".new.0123456789abcdef.fastio-tmp"
"""What a writer leaves who dies while he writes a small file."""


class Crash(BaseException):
    """The writer dies here."""


class Steps:
    """Counts a writer's steps on roots, and kills it at one of them.

    Attributes
    ----------
    proposed : set of str
        Digests of the manifests whose commit has begun.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.proposed: set[str] = set()
        self._left: int | None = None
        self._is_dead = False
        patch.setattr(Root, "put_record", self._counted(Root.put_record))
        for name in _STEPS:
            patch.setattr(Folder, name, self._counted(getattr(Folder, name)))
        withdraw, commit = Root.withdraw, Session.commit

        def withdrawn(root: Root) -> None:
            if not self._is_dead:
                withdraw(root)

        def committed(
            session: Session, encoded: EncodedManifest, *arguments: Any, **more: Any
        ) -> Any:
            self.proposed.add(encoded.digest)
            return commit(session, encoded, *arguments, **more)

        patch.setattr(Root, "withdraw", withdrawn)
        patch.setattr(Session, "commit", committed)
        patch.setattr(replacing, "_copy", copy_shards)

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            self._step()
            result = call(*arguments, **options)
            self._step()
            return result

        return run

    def _step(self) -> None:
        if self._left is None:
            return
        if self._left == 0:
            self._is_dead = True
        if self._is_dead:
            raise Crash
        self._left -= 1

    @contextmanager
    def dying_after(self, steps: int | None) -> Iterator[None]:
        """Die after that many steps, if there are as many; None: never."""
        self._left, self._is_dead = steps, False
        try:
            yield
        finally:
            self._left, self._is_dead = None, False


def copy_shards(manifest: Manifest, members: Members, leaving: str, root: Root, _: Any) -> None:
    """Replaces the copy of real shards when a root is replaced: by name and size."""
    place = [entry.uuid for entry in manifest.roots].index(leaving)
    for shard in manifest.shards:
        if place not in shard.roots:
            continue
        for other in members.roots.values():
            if other.storage.sizes(SHARDS).get(shard.file) == shard.nbytes:
                break
        else:
            raise ReplicaError(root.path, "no copy is left", {})
        root.storage.replace(SHARDS, shard.file, bytes(shard.nbytes), FILE_MODE)


class Dying:
    """A call of a `Store` that dies before or after a file that it puts, copies or removes; it is
    made in a `with`.

    A dead writer cleans nothing up, and leaves its half-done step.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._left: int | None = None
        self._is_in = False
        self.is_dead = False
        for name in _STEPS:
            patch.setattr(Folder, name, self._counted(getattr(Folder, name)))
        patch.setattr(repair, "rewrite", self._counted(repair.rewrite))
        withdraw = Root.withdraw
        patch.setattr(Root, "withdraw", lambda root: self.is_dead or withdraw(root))

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            storage = arguments[0]
            self._step(storage.path / arguments[1] if isinstance(storage, Folder) else None)
            result = call(*arguments, **options)
            self._step(None)
            return result

        return run

    def _step(self, folder: Path | None) -> None:
        if self._is_in and self._left is not None:
            if self._left == 0 and not self.is_dead:
                self.is_dead = True
                if folder is not None:
                    (folder / _LEFT).write_bytes(b"half")
            if self.is_dead:
                raise Crash
            self._left -= 1

    def __enter__(self) -> None:
        self._is_in = True

    def __exit__(self, *_: object) -> None:
        self._is_in = False

    def at_each_step(self, run: Callable[[int], object], again: Callable[[int], object]) -> None:
        """Kill a call at each of its steps, and make it again: `again` makes it and checks the
        result.
        """
        for step in itertools.count():
            self._left, self.is_dead = step, False
            with contextlib.suppress(Crash):
                run(step)
            has_died, self._left, self.is_dead = self.is_dead, None, False
            again(step)
            if not has_died:
                break
        assert step > 5
