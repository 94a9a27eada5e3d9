"""Fixtures over `testbed`: places to put files, cleaned up when the test or the session is over."""

import contextlib
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

import testbed
from fastio import _native
from samples import eventually

hypothesis.settings.register_profile("fastio", deadline=None)
hypothesis.settings.register_profile(
    "ci",
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "fastio")


def pytest_configure() -> None:
    # A shell has it ignored in what it starts in the background, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    testbed.enter_private_mounts()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("root"):
        testbed.require_root(item.name)
    if item.get_closest_marker("gpu"):
        testbed.require_gpu()


@contextlib.contextmanager
def _emptied(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def ext4(tmp_path_factory: pytest.TempPathFactory) -> Iterator[testbed.Mount]:
    """An ext4 of 1 GiB on a loop device."""
    with testbed.loop_mount(tmp_path_factory.mktemp("ext4"), "ext4") as mount:
        yield mount


@pytest.fixture(scope="session")
def xfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[testbed.Mount]:
    """An XFS of 1 GiB on a loop device."""
    with testbed.loop_mount(tmp_path_factory.mktemp("xfs"), "xfs") as mount:
        yield mount


@pytest.fixture(scope="session")
def tmpfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[testbed.Mount]:
    """A tmpfs of 512 MiB."""
    with testbed.tmpfs_mount(tmp_path_factory.mktemp("tmpfs")) as mount:
        yield mount


@pytest.fixture(params=["ext4", "xfs", "tmpfs"])
def filesystem(request: pytest.FixtureRequest) -> str:
    """Each kind of filesystem in turn."""
    kind: str = request.param
    return kind


@pytest.fixture
def storage(request: pytest.FixtureRequest, filesystem: str, tmp_path: Path) -> Iterator[Path]:
    """An empty folder on each kind of filesystem in turn."""
    mount: testbed.Mount = request.getfixturevalue(filesystem)
    with _emptied(mount.path / tmp_path.name) as folder:
        yield folder


@pytest.fixture
def failing_mount(tmp_path: Path) -> Iterator[testbed.FailingMount]:
    """A filesystem whose disk fails on request."""
    folder = tmp_path / "failing"
    folder.mkdir()
    with testbed.failing_mount(folder) as mount:
        yield mount


@pytest.fixture(scope="session")
def slow_filesystem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled program that `slow_mount` runs."""
    return testbed.build_slow_filesystem(tmp_path_factory.mktemp("slow"))


@pytest.fixture
def slow_mount(slow_filesystem: Path, tmp_path: Path) -> Iterator[testbed.SlowMount]:
    """A folder whose reads can be delayed or hung."""
    folder = tmp_path / "slow"
    folder.mkdir()
    with testbed.slow_mount(slow_filesystem, folder) as mount:
        yield mount


@pytest.fixture(scope="session")
def lacking_filesystem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled program that `lacking_mount` runs."""
    return testbed.build_lacking_filesystem(tmp_path_factory.mktemp("lacking"))


@pytest.fixture
def lacking_mount(
    lacking_filesystem: Path, tmp_path: Path
) -> Iterator[Callable[..., testbed.LackingMount]]:
    """Mounts a folder on a filesystem that refuses calls: `lacking_mount(rename=errno.ENOSYS)`."""
    with contextlib.ExitStack() as mounts:

        def mount(**refused: int) -> testbed.LackingMount:
            folder = tmp_path / "lacking"
            folder.mkdir()
            return mounts.enter_context(testbed.lacking_mount(lacking_filesystem, folder, refused))

        yield mount


@pytest.fixture
def faults() -> Iterator[Callable[..., None]]:
    """Set completion faults: (which completion, kind, value)."""

    def set_faults(*script: tuple[int, str, int]) -> None:
        _native.testing.set_completion_faults(script)

    yield set_faults
    _native.testing.set_completion_faults([])
    _native.testing.release_held_completions()
    assert eventually(lambda: _native.testing.abandoned_bytes() == 0)


@pytest.fixture(params=["uring", "pread"])
def engine(request: pytest.FixtureRequest) -> Any:
    """Each engine in turn."""
    return request.param


@pytest.fixture(params=["bypass", "keep"])
def cache(request: pytest.FixtureRequest) -> Any:
    """With O_DIRECT, then through the page cache."""
    return request.param
