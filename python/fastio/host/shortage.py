"""Memory that there was none of: what for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from fastio.errors import MemoryLimitError


@contextlib.contextmanager
def memory_named(subject: str, what: Callable[[], str]) -> Iterator[None]:
    """Say what there was no memory for, where whoever asked for it could not.

    Parameters
    ----------
    subject : str
        The file, or the source.
    what : callable
        Returns what the memory was needed for, with its size in bytes.

    Raises
    ------
    MemoryError
        Names both. `MemoryLimitError` says all of it already, and is left as it is.
    """
    try:
        yield
    except MemoryLimitError:
        raise
    except MemoryError as error:
        if subject in str(error):
            raise
        error.__traceback__ = None  # its frames hold it, and the memory with it
        raise MemoryError(f"{subject}: there is no memory for {what()}") from error
