"""Tensors that an index lists, and that the files do not have in which it lists them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from fastio.errors import FormatError
from fastio.errors.base import listed


class AbsentTensors(msgspec.Struct, frozen=True):
    """The tensors that are absent from the files of one index.

    Attributes
    ----------
    index : str
        Its path.
    files : mapping of str to str
        Each tensor, and the file that should have it.
    """

    index: str
    files: Mapping[str, str]

    def why(self, name: str) -> str | None:
        """Return why a tensor is not there; None where it is not expected, either."""
        if name not in self.files:
            return None
        return f"{self.index} lists it in {self.files[name]}, which does not have it"

    def lines(self) -> tuple[str, ...]:
        """Return what is absent, a line for each file."""
        return tuple(
            f"{path} has no tensor {listed(names)}, for which {self.index} names it"
            for path, names in self._by_file().items()
        )

    def require_none(self) -> None:
        """Refuse to go on where something is absent.

        Raises
        ------
        FormatError
            Names the tensors, and says how the others are loaded.
        """
        for path, names in self._by_file().items():
            more = len(self.files) - len(names)
            raise FormatError(
                path,
                f"has no tensor {listed(names)}" + (f"; other files lack {more}" if more else ""),
                expected=f"the tensors for which {self.index} names this file; names=[…] and "
                "fastio.open read those that there are",
            )

    def _by_file(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name, path in self.files.items():
            found.setdefault(path, []).append(name)
        return found


NONE_ABSENT = AbsentTensors("", MappingProxyType({}))
