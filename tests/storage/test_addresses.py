"""Addresses of storages: which text is a URL, and which module serves its scheme."""

from pathlib import Path

import pytest

from fastio.storage import by_address, known
from testbed import run_python


def test_an_unknown_scheme_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not known.is_url("mem://bucket/root")
    assert known.address_of("mem://bucket/root") == tmp_path / "mem:" / "bucket" / "root"
    assert by_address.kind_of(tmp_path).__name__ == "fastio.storage.folder_kind"  # type: ignore[attr-defined]


def test_a_url_has_the_arithmetic_of_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(known.modules(), "mem", "storage.objects")
    url = known.address_of("mem://bucket/root")
    assert str(url) == "mem://bucket/root"
    assert str(url / "shards" / "a") == "mem://bucket/root/shards/a"
    assert str((url / "shards").parent) == str(known.address_of(str(url)))
    assert url == known.address_of(str(url))
    assert by_address.kind_of(url / "shards").__name__ == "storage.objects"  # type: ignore[attr-defined]


def test_a_distribution_adds_a_scheme_by_an_entry_point(tmp_path: Path) -> None:
    """As an own extra of fastio does, or somebody else's package."""
    about = tmp_path / "toys-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1\n")
    (about / "entry_points.txt").write_text(
        f"[{known.GROUP}]\nmem = storage.objects\ntoy = toys.storage\n"
    )
    code = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[1:]
import numpy
import fastio
assert "importlib.metadata" not in sys.modules and "storage.objects" not in sys.modules
from storage import objects
objects.BUCKETS["b"] = objects.Bucket(Path(sys.argv[1]))
store = fastio.Store.create(["mem://b/root"], replicas=1)
store.save({"a": numpy.arange(5)})
assert fastio.load("mem://b/root")["a"][3] == 3
try:
    fastio.Store.open(["toy://b/root"])
except fastio.ReplicaError as error:
    assert "toy:// needs the module toys.storage" in str(error), error
    print("done")
"""
    tests = Path(__file__).parents[1]
    assert run_python(code, tmp_path, tests).check().stdout == "done\n"
