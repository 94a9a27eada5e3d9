"""Memory that the kernel may read or write: kept where it is for as long as it may."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from fastio._uring import ffi

if TYPE_CHECKING:
    import numpy.typing as npt
    from typing_extensions import Buffer

    # numpy's types say so themselves only from Python 3.12 on.
    AnyBuffer = Buffer | npt.NDArray[Any]


class Lease:
    """A buffer that is kept exported, so that its owner may neither resize nor free it."""

    def __init__(self, buffer: AnyBuffer, *, writable: bool) -> None:
        view = memoryview(cast("Buffer", buffer))
        if writable and view.readonly:
            raise BufferError("a read-only buffer cannot be read into")
        if not view.c_contiguous:
            raise BufferError("the buffer is not contiguous")
        self._exported = ffi.from_buffer("char[]", view, require_writable=writable)
        self.address = address_of(self._exported)
        self.nbytes = len(self._exported)
        self._owner = view.obj
        # Of what an owner offers in pieces only, or anew each time, nothing can be told later.
        self._comparable = self._in_place()

    def release(self) -> None:
        """Let the buffer go."""
        ffi.release(self._exported)

    @property
    def died(self) -> bool:
        """Whether the owner has its memory elsewhere by now: not all respect an export."""
        return self._comparable and not self._in_place()

    def _in_place(self) -> bool:
        try:
            with ffi.from_buffer("char[]", self._owner) as now:
                begin, end = address_of(now), address_of(now) + len(now)
                return begin <= self.address <= self.address + self.nbytes <= end
        except (BufferError, TypeError, ValueError):
            return False

    def holds(self, other: Lease) -> bool:
        """Whether the memory of the other is within this one's."""
        end = self.address + self.nbytes
        return self.address <= other.address and other.address + other.nbytes <= end


def address_of(exported: Any) -> int:
    return int(ffi.cast("uintptr_t", exported))


def vectors(leases: Sequence[Lease]) -> Any:
    """The leased memory as an array of `struct iovec`."""
    return ffi.new(
        "struct iovec[]", [(ffi.cast("void *", each.address), each.nbytes) for each in leases]
    )


def keep_for_good(requests: object) -> None:
    """Never free what these hold, not even when the interpreter ends: the kernel may write there.

    Raises
    ------
    Nothing.
    """
    import ctypes  # takes longer to import than most users need it

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(requests))
