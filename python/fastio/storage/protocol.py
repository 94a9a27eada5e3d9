"""`Storage`: the place where a root lies, as a store uses it; and its locks.

A storage has folders, one level of them, and files in each. The empty name stands for the storage
itself. Names are plain: whatever would lead out of a folder is refused, and no symlink is followed.
A call that may take long is made by the thread of the storage, so that a caller can abandon it
after `Options.root_timeout_s`: see `answering.asked`. So every method below may also raise a
ReadError that says that there was no answer in time.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Protocol

import fastio._native as _native
from fastio.host.replacement import Replacement
from fastio.storage.answering import Answering
from fastio.storage.upkeep import Upkeep

FILE_MODE = 0o600
"""Of new files, unless the user says otherwise; folders may be searched by whoever may read."""


class Lock(Protocol):
    """A lock that is held until it is closed, nobody has it any more, or its process dies."""

    def sign(self, who: str) -> None:
        """Have the file of the lock say who holds it; where it cannot be written to, it does not.

        Raises
        ------
        Nothing.
        """

    def close(self) -> None:
        """Release it. A second call does nothing.

        Raises
        ------
        Nothing.
        """


class Locks(Protocol):
    """The locks of a storage: that of a writer, and those of readers of a file."""

    def take(self, name: str, mode: int) -> Lock | None:
        """Take an exclusive lock on a file of the storage itself, which is made if need be.

        Returns
        -------
        Lock or None
            None where another holder has it. Nobody waits.

        Raises
        ------
        WriteError
            If it cannot be locked.
        ReadError
        """

    def hold(self, folder: str, name: str) -> Lock:
        """Share a lock on a file, so that nobody can `exclude` others from it.

        A storage without locks gives one that keeps nobody out: there nobody can exclude either.

        Raises
        ------
        FileNotFoundError
            If the file is not there, or is removed just now.
        ReadError
        """

    def exclude(self, folder: str, name: str) -> Lock | None:
        """Take an exclusive lock on a file: nobody holds it, and nobody can begin to meanwhile.

        Returns
        -------
        Lock or None
            None where somebody holds it, or may hold it because there are no locks.

        Raises
        ------
        FileNotFoundError
            If there is no file of that name that anybody could hold.
        ReadError
        """


class Storage(Protocol):
    """Named files in folders, for one root of a store.

    Attributes
    ----------
    path : pathlib.PurePath
        Its address, for messages and manifests.
    answering : Answering
        Makes all calls that may take long.
    is_new : bool
        Whether `make_storage` has made it, or folders of it, and `unmake` can remove them.
    """

    @property
    def path(self) -> PurePath: ...
    @property
    def answering(self) -> Answering: ...
    @property
    def is_new(self) -> bool: ...
    @property
    def locks(self) -> Locks: ...
    @property
    def upkeep(self) -> Upkeep: ...

    # ---- what is there

    def names(self, folder: str) -> list[str]:
        """Return all that is in a folder, sorted: also what is being written.

        Raises
        ------
        ReadError
        """

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the bytes of each file in a folder, by name.

        Raises
        ------
        ReadError
        """

    def size(self, folder: str, name: str) -> int:
        """Return the bytes of a file.

        Raises
        ------
        FileNotFoundError, ReadError
        """

    def mode(self, folder: str, name: str) -> int:
        """Return the mode of a file, which a new one in its place is to have.

        Raises
        ------
        FileNotFoundError, ReadError
        """

    def read(self, folder: str, name: str, nbytes_max: int) -> bytes:
        """Return a small file.

        Raises
        ------
        FileNotFoundError
        FormatError
            If it is longer.
        ReadError
        """

    def read_range(self, folder: str, name: str, begin: int, nbytes: int) -> bytes:
        """Return bytes of a file; fewer, or none, where it ends before.

        Raises
        ------
        FileNotFoundError, ReadError
        """

    def open_file(self, folder: str, name: str) -> _native.Replica:
        """Open a file for loads, or a feed of its bytes.

        If it is replaced afterwards, a read has the old bytes or fails.

        Raises
        ------
        FileNotFoundError, ReadError
        """

    # ---- what is put there

    def put_if_absent(self, folder: str, name: str, data: bytes, mode: int) -> None:
        """Write a file whole and durably, unless there is one of that name: of several, one wins.

        Raises
        ------
        ConflictError
            If there is one.
        WriteError, ReadError
        """

    def replace(self, folder: str, name: str, data: bytes, mode: int) -> None:
        """Write a file whole and durably, in place of one that may be there.

        A reader, also after a crash, finds the old file or the new one.

        Raises
        ------
        WriteError, ReadError
        """

    def new_file(self, folder: str, name: str) -> Replacement:
        """Open a file that is written piece by piece; nothing is left of it unless it is renamed.

        Until then it may get another name: `Replacement.name_as`.

        Raises
        ------
        WriteError, ReadError
        """

    def remove(self, folder: str, name: str) -> None:
        """Remove a file, if it is there.

        Raises
        ------
        WriteError, ReadError
        """

    def sync(self, folder: str) -> None:
        """Wait until new and removed names of a folder survive a power cut.

        Raises
        ------
        WriteError
        """

    # ---- itself

    def is_at(self, path: str | PurePath) -> bool:
        """Return whether an address leads to it.

        Raises
        ------
        ReadError
            Only if it does not answer.
        """

    def disk(self) -> int:
        """Return the number of what is under it, as st_dev: storages of one disk share its speed.

        `answering.disk` and open files have it, too.

        Raises
        ------
        ReadError
        """

    def space(self) -> tuple[int, int] | None:
        """Return bytes that are free, and bytes in all; None where nobody can tell.

        Raises
        ------
        ReadError
        """

    def unmake(self) -> None:
        """Remove the folders that `make_storage` has made, the storage itself last.

        Raises
        ------
        OSError
            If there is something in one of them. A later call goes on there.
        """

    def close(self) -> None:
        """Release it when no call is made with it any more, or nobody has it any more.

        A second call does nothing.

        Raises
        ------
        Nothing.
        """
