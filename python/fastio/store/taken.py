"""A generation that is read, and the locks that keep it from being collected."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass

from fastio.errors import FastioError
from fastio.storage.protocol import Lock
from fastio.store import locks
from fastio.store.history import Standing
from fastio.store.manifest import EncodedManifest
from fastio.store.root import Root


class Held:
    """The locks that keep a generation from being collected, until they are closed or dropped.

    Attributes
    ----------
    locks : dict of str to Lock
        By the UUID of the root.
    """

    def __init__(self) -> None:
        self.locks: dict[str, Lock] = {}

    @classmethod
    def on(cls, roots: Mapping[str, Root], digest: str) -> Held:
        """Hold a manifest on every root that has it: at least where it was read.

        Raises
        ------
        FileNotFoundError
            If it was collected just now.
        """
        held = cls()
        gone = ""  # an error that is kept would keep this frame, and with it the locks
        try:
            for uuid, root in sorted(roots.items()):
                try:
                    held.locks[uuid] = locks.hold(root, digest)
                except FileNotFoundError as error:
                    gone = str(error.filename)
                except (FastioError, OSError) as error:
                    root.note(str(error))
            if not held.locks and gone:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), gone)
        except BaseException:
            held.close()
            raise
        return held

    def hold_more(self, roots: Mapping[str, Root], digest: str) -> None:
        """Hold it on roots that have come back, too; one that has it not is not read.

        Raises
        ------
        Nothing.
        """
        for uuid, root in roots.items():
            if uuid not in self.locks:
                with contextlib.suppress(FastioError, OSError):
                    self.locks[uuid] = locks.hold(root, digest)

    def close(self) -> None:
        """Let it be collected."""
        while self.locks:
            self.locks.popitem()[1].close()


@dataclass(frozen=True)
class PinnedGeneration:
    """A generation that is read.

    Attributes
    ----------
    standing : Standing
    named : EncodedManifest
    held : Held
        While it is open, the generation is not collected.
    """

    standing: Standing
    named: EncodedManifest
    held: Held

    @property
    def generation(self) -> int:
        """Its number."""
        return self.standing.record.generation
