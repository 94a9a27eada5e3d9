"""The variables ``FASTIO_…`` of the environment: which there are, and a word about others."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable

from fastio.display.matches import close_matches

PREFIX = "FASTIO_"
# An option joins by being one. These are no options; csrc/driver_names.cc, fastio.saving.
BESIDE_OPTIONS = ("FASTIO_CUDA_LIBRARY", "FASTIO_DURABLE")
# The tests and the benchmarks of fastio set these for themselves.
_OF_DEVELOPMENT = ("FASTIO_TEST_", "FASTIO_BENCH_", "FASTIO_GPU_")


class _Once:
    told = False


def variable_of(option: str) -> str:
    """Return the variable that an option is read from."""
    return PREFIX + option.upper()


def warn_of_unknown(options: Iterable[str], *, stacklevel: int) -> None:
    """Warn, once in a process, of variables that nothing reads: a name that was mistyped.

    Parameters
    ----------
    options : iterable of str
        All that there are.
    stacklevel : int
        As `warnings.warn` takes it, from here.
    """
    if _Once.told:
        return
    _Once.told = True
    known = {*map(variable_of, options), *BESIDE_OPTIONS}
    for name, value in os.environ.items():
        if name in known or not name.upper().startswith(PREFIX) or not value.strip():
            continue
        if name.startswith(_OF_DEVELOPMENT):
            continue
        meant = _like(name, known)
        warnings.warn(f"{name} is no variable of fastio; {meant}", stacklevel=stacklevel + 1)


def _like(name: str, known: Iterable[str]) -> str:
    # All begin alike: what follows is compared.
    matches = close_matches(
        name[len(PREFIX) :].upper(), [each.removeprefix(PREFIX) for each in known]
    )
    if not matches:
        return f"there are {', '.join(sorted(known))}"
    return f"did you mean {' or '.join(PREFIX + match for match in matches)}?"
