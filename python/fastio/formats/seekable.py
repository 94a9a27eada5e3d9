"""An open file as Python's libraries read one: at a position, which moves."""

from __future__ import annotations

import io
from typing import Any

from fastio.catalog import Readable


class Seekable(io.RawIOBase):
    """A file with a position.

    Parameters
    ----------
    file : Readable
    """

    def __init__(self, file: Readable) -> None:
        self._file = file
        self._at = 0

    def readable(self) -> bool:
        """It can be read."""
        return True

    def seekable(self) -> bool:
        """It has positions."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position, and return it."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.nbytes}[whence]
        if base + offset < 0:
            raise ValueError("a negative position")
        self._at = base + offset
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """Return bytes from the position on, which moves behind them."""
        left = max(self._file.nbytes - self._at, 0)
        count = left if size is None or size < 0 else min(size, left)
        data = self._file.read(self._at, count) if count else b""
        self._at += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        """Read into memory, and return how many bytes came."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
