"""Checksums that a file carries and that do not fit it."""

from __future__ import annotations

import msgspec

from fastio.errors import FormatError


class UnsoundTable(msgspec.Struct, frozen=True):
    """Metadata of fastio's in a file that they do not fit; there is no table then.

    Attributes
    ----------
    problem, expected : str
    offset : int
        Where in the file, in bytes.
    is_copied : bool
        Whether another writer made the header, and so copied the metadata of a sealed file.
    header : str
        XXH3-64 of the file up to its data: tells two contents of one path apart.
    """

    problem: str
    offset: int
    expected: str
    is_copied: bool
    header: str

    def error(self, path: str) -> FormatError:
        """The message for such a file."""
        return FormatError(path, self.problem, offset=self.offset, expected=self.expected)
