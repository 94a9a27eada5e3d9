"""FastioError: what all errors of fastio share. The tree of them is in `fastio.errors`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from fastio.display.values import one_line, shown

_NAMES_SHOWN_MAX = 3


def _restore(kind: type[FastioError], arguments: dict[str, Any]) -> FastioError:
    return kind(**arguments)


class FastioError(Exception):
    """Base of all errors that fastio defines.

    Attributes
    ----------
    complete : tuple of str or None
        If `fastio.load_into` failed midway, the tensors that have all their bytes.
    """

    # The arguments of the constructor; each is an attribute too.
    _arguments: ClassVar[tuple[str, ...]] = ()
    complete: tuple[str, ...] | None = None

    def __str__(self) -> str:
        if self.complete is None:
            return self._message()
        if not self.complete:
            return f"{self._message()}; no tensor is complete"
        return f"{self._message()}; complete: {listed(self.complete)}"

    @one_line
    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def _message(self) -> str:
        return " ".join(str(arg) for arg in self.args)

    def _kind(self) -> type[FastioError]:
        """The class that made it, which a pickle names."""
        return type(self)

    def __reduce__(self) -> str | tuple[Any, ...]:
        if not self._arguments:
            return super().__reduce__()
        arguments = {name: getattr(self, name) for name in self._arguments}
        return _restore, (self._kind(), arguments), vars(self)


def listed(names: Sequence[str]) -> str:
    """Return the first few names as a message lists them, and how many more there are.

    Raises
    ------
    Nothing.
    """
    first = ", ".join(shown(name) for name in names[:_NAMES_SHOWN_MAX])
    more = len(names) - _NAMES_SHOWN_MAX
    return f"{first} and {more} more" if more > 0 else first
