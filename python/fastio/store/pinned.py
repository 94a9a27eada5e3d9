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


class Hold:
    """The hold on a generation: locks that keep it from being collected, until they are closed.

    Attributes
    ----------
    locks : dict of str to Lock
        By the UUID of the root.
    """

    def __init__(self) -> None:
        self.locks: dict[str, Lock] = {}

    @classmethod
    def on(cls, roots: Mapping[str, Root], digest: str) -> Hold:
        """Hold a manifest on every root that has it: at least where it was read.

        Raises
        ------
        FileNotFoundError
            If it was collected just now.
        """
        hold = cls()
        gone = ""  # an error that is kept would keep this frame, and with it the locks
        try:
            for uuid, root in sorted(roots.items()):
                try:
                    hold.locks[uuid] = locks.hold(root, digest)
                except FileNotFoundError as error:
                    gone = str(error.filename)
                except (FastioError, OSError) as error:
                    root.note(str(error))
            if not hold.locks and gone:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), gone)
        except BaseException:
            hold.close()
            raise
        return hold

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
    encoded : EncodedManifest
    hold : Hold
        While it is open, the generation is not collected.
    """

    standing: Standing
    encoded: EncodedManifest
    hold: Hold

    @property
    def generation(self) -> int:
        """Its number."""
        return self.standing.record.generation
