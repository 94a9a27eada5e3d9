"""What the tests of the reader share: engines in turn, faults at the completion queue."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fastio import _native
from load.samples import eventually


@pytest.fixture
def faults() -> Iterator[Callable[..., None]]:
    """Set completion faults: (which completion, kind, value)."""

    def set_faults(*script: tuple[int, str, int]) -> None:
        _native.set_completion_faults(script)

    yield set_faults
    _native.set_completion_faults([])
    _native.release_held_completions()
    assert eventually(lambda: _native.parked_bytes() == 0)


@pytest.fixture(params=["uring", "pread"])
def engine(request: pytest.FixtureRequest) -> Any:
    """Each engine in turn."""
    return request.param


@pytest.fixture(params=["bypass", "keep"])
def cache(request: pytest.FixtureRequest) -> Any:
    """Past the page cache, then through it."""
    return request.param
