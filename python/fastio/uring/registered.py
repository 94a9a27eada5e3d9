"""Buffers and files that the kernel was told of once, for requests that name them by index."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from fastio._uring import lib
from fastio.uring.guard import Guarded, exclusive, within
from fastio.uring.memory import Lease, vectors
from fastio.uring.queue import INT_MAX, check

if TYPE_CHECKING:
    from fastio.uring.memory import AnyBuffer


class Registered(Guarded):
    """A ring's part that registers."""

    def __init__(self, entries: int, flags: Iterable[str]) -> None:
        super().__init__(entries, flags)
        self._buffers: Sequence[Lease] = ()
        self._files = 0

    @exclusive
    def register_buffers(self, buffers: Iterable[AnyBuffer]) -> None:
        """Have the kernel pin buffers once, for requests that name one by its ``buffer_index``.

        Parameters
        ----------
        buffers : iterable of writable buffers
            Stay exported until they are unregistered or the ring is closed.

        Raises
        ------
        BufferError
            One is read-only or not contiguous.
        OSError
            The kernel refuses: with ENOMEM for RLIMIT_MEMLOCK.
        TypeError, ValueError
            Not buffers; none; or some are registered already.
        """
        if self._buffers:
            raise ValueError("buffers are registered already: unregister_buffers() first")
        leases: list[Lease] = []
        try:
            leases.extend(Lease(buffer, writable=True) for buffer in buffers)
            if not leases:
                raise ValueError("there are no buffers to register")
            result = lib.io_uring_register_buffers(self._open.ring, vectors(leases), len(leases))
            check("io_uring_register_buffers", result)
            self._buffers = tuple(leases)
        finally:
            if not self._buffers:
                for lease in leases:
                    lease.release()

    @exclusive
    def unregister_buffers(self) -> None:
        """Let the registered buffers go.

        Raises
        ------
        BufferError
            A request has one of them.
        OSError
            The kernel refuses.
        ValueError
            There are none.
        """
        if not self._buffers:
            raise ValueError("no buffers are registered")
        if any(each.operation.endswith("_fixed") for each in self._open.requests.values()):
            raise BufferError("a request has a registered buffer: take its completion first")
        check("io_uring_unregister_buffers", lib.io_uring_unregister_buffers(self._open.ring))
        self._release_buffers()

    @exclusive
    def register_files(self, fds: Iterable[int]) -> None:
        """Have the kernel hold files, for requests that name one by its index (``fixed_file``).

        Parameters
        ----------
        fds : iterable of int
            May be closed afterwards.

        Raises
        ------
        OSError
            The kernel refuses: with EBADF what is not open.
        TypeError, ValueError
            Not descriptors; none; or some are registered already.
        """
        if self._files:
            raise ValueError("files are registered already: unregister_files() first")
        descriptors = [within("a descriptor", fd, 0, INT_MAX) for fd in fds]
        if not descriptors:
            raise ValueError("there are no files to register")
        result = lib.io_uring_register_files(self._open.ring, descriptors, len(descriptors))
        check("io_uring_register_files", result)
        self._files = len(descriptors)

    @exclusive
    def unregister_files(self) -> None:
        """Let the registered files go.

        Raises
        ------
        OSError
            The kernel refuses.
        ValueError
            There are none, or a request has one of them.
        """
        if not self._files:
            raise ValueError("no files are registered")
        if any(each.fields.fixed_file for each in self._open.requests.values()):
            raise ValueError("a request has a registered file: take its completion first")
        check("io_uring_unregister_files", lib.io_uring_unregister_files(self._open.ring))
        self._files = 0

    def _release_buffers(self) -> None:
        """Let go of the buffers, which the kernel has no more."""
        leases, self._buffers = self._buffers, ()
        for lease in leases:
            lease.release()

    def _file(self, fd: int, fixed_file: bool) -> dict[str, Any]:
        """The fields of a request that say which file it is about."""
        if not fixed_file:
            return {"fd": within("a descriptor", fd, 0, INT_MAX)}
        if not self._files:
            raise ValueError("fixed_file, but no files are registered")
        return {
            "fd": within("the index of a registered file", fd, 0, self._files - 1),
            "fixed_file": True,
        }

    def _index(self, index: int, lease: Lease) -> int:
        """The index of the registered buffer that has this memory."""
        if not self._buffers:
            raise ValueError("buffer_index, but no buffers are registered")
        index = within("buffer_index", index, 0, len(self._buffers) - 1)
        if self._buffers[index].died:
            raise BufferError(f"registered buffer {index} has died: its owner moved its memory")
        if not self._buffers[index].holds(lease):
            raise ValueError(f"the buffer does not lie within registered buffer {index}")
        return index
