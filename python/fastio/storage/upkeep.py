"""The upkeep of a storage, for verification, repair and status: its problems, and their repair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol


class Upkeep(Protocol):
    """The problems of a storage beside damaged bytes, and their repair.

    A local folder has inodes, rights and a page cache. An object store has little of that: there
    most of these methods find nothing, and do nothing.
    """

    def folder_problem(self, folder: str) -> str:
        """Say what is wrong with a folder; empty where nothing is.

        Raises
        ------
        Nothing.
        """

    def lock_problem(self, name: str) -> str:
        """Say why nobody can take the lock of that name; empty where somebody can.

        Raises
        ------
        Nothing.
        """

    def write_problems(self, folders: Sequence[str]) -> list[str]:
        """Say why nothing new can be written.

        Raises
        ------
        Nothing.
        """

    def unreadable(self, folder: str, wanted: Mapping[str, int]) -> dict[str, str]:
        """Return which files cannot be read, or have another size, by name with the reason.

        No byte is read.

        Parameters
        ----------
        folder : str
        wanted : mapping of str to int
            Bytes of each file.

        Raises
        ------
        ReadError
            If the folder cannot be read.
        """

    def drop_cached(self, folder: str, name: str) -> None:
        """Have the next read of a file come from the disk, as far as that can be had.

        Raises
        ------
        Nothing.
        """

    def mend_folder(self, folder: str, mode: int) -> None:
        """Make a folder that is missing, for files of that mode.

        Raises
        ------
        WriteError
            If something else is in its place.
        """

    def mend_lock(self, name: str) -> None:
        """Replace what stands where the file of a lock should be; a lock that is held stays.

        Raises
        ------
        WriteError
        """

    def mend_file(self, folder: str, name: str, data: bytes, mode: int) -> None:
        """Write a small file that is missing or damaged anew; whoever holds it goes on holding it.

        After a crash it may be damaged still.

        Raises
        ------
        WriteError, ReadError
        """

    def make_way(self, folder: str, name: str) -> None:
        """Remove what has the name of a file and would not be replaced: an empty folder.

        Raises
        ------
        WriteError
            If there is something in it.
        ReadError
        """

    def remove_leftovers(self, folders: Sequence[str]) -> None:
        """Remove what killed writers left; what is being written stays.

        Raises
        ------
        Nothing: what cannot be removed stays.
        """
