"""Fixtures of the tests of saves that are cut off."""

from collections.abc import Iterator
from typing import Any

import pytest

import testbed


@pytest.fixture(scope="session")
def forks() -> Iterator[testbed.Forks]:
    """Runs code in a fork of a process that has imported fastio and `faults.samples`."""
    before = (
        "import ctypes, os, signal, fastio\nfrom pathlib import Path\n"
        "from samples import eventually\nfrom faults.samples import *"
    )
    with testbed.forks(before) as forks:
        yield forks


@pytest.fixture(params=["file", "folder"])
def shape(request: pytest.FixtureRequest) -> Any:
    """One file, then a folder of shards."""
    return request.param


@pytest.fixture(params=["nameless", "named"])
def beginning(request: pytest.FixtureRequest) -> str:
    """The start of a new file: unnamed, or under a temporary name where O_TMPFILE fails."""
    way: str = request.param
    return way
