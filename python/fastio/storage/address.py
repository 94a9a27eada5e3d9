"""The address of a storage: a path, or a URL with the arithmetic of paths."""

from __future__ import annotations

from pathlib import PurePosixPath


class Url(PurePosixPath):
    """A URL such as ``s3://bucket/prefix``: `url / "shards"` is below it.

    It is no `pathlib.Path`: nothing of the local filesystem is asked for it.
    """

    @property
    def scheme(self) -> str:
        """The part before ``://``."""
        return self.parts[0].removesuffix(":")

    def __str__(self) -> str:
        return super().__str__().replace(":/", "://", 1)  # pathlib has made one slash of two
