"""A store whose files are closed to its user: status reports that, and does not call it sound."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastio
from store.samples import create, shards_of, tensors
from testbed import run_python

_USER = 65534

# Late imports happen before the change of user: the interpreter is closed to others, too.
_STATUS = f"""
import os, sys, fastio
roots = sys.argv[1:]
with fastio.Store.open(roots) as store:
    store.status()
os.setgroups([])
os.setgid({_USER})
os.setuid({_USER})
with fastio.Store.open(roots) as store:
    status = store.status()
print(status.degraded, status.roots[roots[0]], status.roots[roots[1]], sep="\\n")
"""


@pytest.fixture
def roots() -> Iterator[list[Path]]:
    """Two roots of a store that belong to another user; root makes them."""
    with tempfile.TemporaryDirectory() as folder:  # not below one that is closed to others
        with create(Path(folder) / "store", 2) as store:
            store.save(tensors(1))
        Path(folder).chmod(0o755)
        for path in Path(folder).rglob("*"):
            os.chown(path, _USER, _USER)
        yield [Path(folder) / "store" / f"root{at}" for at in range(2)]


def _status(roots: list[Path]) -> list[str]:
    return run_python(_STATUS, *roots).check().stdout.splitlines()


@pytest.mark.root
def test_a_store_whose_files_are_the_users_own_is_ok(roots: list[Path]) -> None:
    assert _status(roots) == ["False", "ok", "ok"]


@pytest.mark.root
def test_unreadable_shards_are_reported(roots: list[Path]) -> None:
    shards = shards_of(roots[0])
    for shard in shards[1:]:
        shard.chmod(0)
    degraded, first, second = _status(roots)
    assert degraded == "True"
    closed = f"{len(shards) - 1} of {len(shards)} shards are closed to this process (EACCES"
    assert closed in first
    assert shards[1].name in first
    assert second == "ok"


@pytest.mark.root
@pytest.mark.parametrize("mode", [0, 0o600, 0o300])
@pytest.mark.parametrize("name", ["shards", "manifests", "commits"])
def test_an_inaccessible_folder_is_reported(roots: list[Path], name: str, mode: int) -> None:
    (roots[0] / name).chmod(mode)
    degraded, first, second = _status(roots)
    assert (degraded, second) == ("True", "ok")
    assert name in first
    assert "EACCES" in first


@pytest.mark.root
@pytest.mark.parametrize("name", ["fastio-root.json", "promise", "lock", "verified"])
def test_an_unreadable_small_file_is_reported(roots: list[Path], name: str) -> None:
    with fastio.Store.open(roots) as store:
        store.verify()  # writes the note of its success
    for root in roots:
        os.chown(root / "verified", _USER, _USER)
    os.chown(roots[0] / name, 0, 0)
    (roots[0] / name).chmod(0o600)
    degraded, first, second = _status(roots)
    assert (degraded, second) == ("True", "ok")
    assert name in first
    assert "EACCES" in first


@pytest.mark.parametrize("nbytes", [0, 100])
def test_missing_truncated_and_replaced_shards_are_told_apart(tmp_path: Path, nbytes: int) -> None:
    with create(tmp_path, 1) as store:
        store.save(tensors(1))
        first, second, third, *_ = shards_of(tmp_path / "root0")
        first.unlink()
        os.truncate(second, nbytes)
        third.unlink()
        third.mkdir()
        (state,) = store.status().roots.values()
        for problem, path in (
            ("missing", first),
            ("of another size", second),
            ("no regular file", third),
        ):
            assert f"shards is {problem}: {path.name}" in state
