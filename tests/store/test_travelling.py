"""A pickle of a store opens the same generation of the same store elsewhere, or raises."""

import copy
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fastio
from store.samples import assert_same, create, tensors
from testbed import run_python

_OPENED: dict[str, Callable[[Path], Any]] = {
    "fastio.open": lambda folder: fastio.open(folder / "root0"),
    "fastio.open of a link": lambda folder: fastio.open(folder / "link"),
    "Store.reader().open()": lambda folder: fastio.Store.open(folder / "root0").reader(),
    "Store.open()": lambda folder: fastio.Store.open(folder / "root0"),
}


@pytest.fixture(params=_OPENED)
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Readers of the first generation of a store of two roots, in each way."""
    create(tmp_path, 2).save(tensors(1))
    (tmp_path / "link").symlink_to(tmp_path / "root0")
    with _OPENED[request.param](tmp_path) as reads:
        yield reads


def test_a_worker_reads_the_generation_that_was_opened_and_no_newer_one(
    opened: Any, tmp_path: Path
) -> None:
    (tmp_path / "pickle").write_bytes(pickle.dumps(opened))
    fastio.Store.open(tmp_path / "root0").save(tensors(2))
    code = """
import pickle, sys
with open(sys.argv[1], "rb") as file:
    print(pickle.load(file).load()["flags"].tobytes().hex())
"""
    said = run_python(code, tmp_path / "pickle").check().stdout.strip()
    assert said == tensors(1)["flags"].tobytes().hex()
    assert_same(copy.deepcopy(opened).load(), tensors(1))


def test_a_worker_that_finds_its_generation_collected_says_so(opened: Any, tmp_path: Path) -> None:
    data = pickle.dumps(opened)
    opened.close()
    store = fastio.Store.open(tmp_path / "root0")
    store.save(tensors(2))
    store.gc()
    with pytest.raises(fastio.ConflictError, match="no generation 1: it was collected") as raised:
        pickle.loads(data)
    assert "there are 2" in str(raised.value)


def test_a_worker_that_finds_another_store_says_so(opened: Any, tmp_path: Path) -> None:
    data = pickle.dumps(opened)
    for at in range(2):
        (tmp_path / f"root{at}").rename(tmp_path / f"away{at}")
    other = create(tmp_path, 2)
    other.save(tensors(2))
    with pytest.raises(fastio.ReplicaError, match="is of another store") as raised:
        pickle.loads(data)
    assert str(tmp_path / "root1") in raised.value.reasons
    other.close()
    for at in range(2):
        shutil.rmtree(tmp_path / f"root{at}")
    with pytest.raises(FileNotFoundError, match="No such store"):
        pickle.loads(data)


def test_a_worker_that_finds_another_generation_of_that_number_says_so(tmp_path: Path) -> None:
    store = create(tmp_path, 3)
    store.save(tensors(1))
    shutil.copytree(tmp_path, tmp_path.with_name("before"))
    store.save(tensors(2))
    data = pickle.dumps(fastio.open(tmp_path / "root0"))
    for at in range(3):
        shutil.rmtree(tmp_path / f"root{at}")
        shutil.copytree(tmp_path.with_name("before") / f"root{at}", tmp_path / f"root{at}")
    assert fastio.Store.open(tmp_path / "root0").save(tensors(3)) == 2
    with pytest.raises(fastio.ConflictError, match="its generation 2 is not the one"):
        pickle.loads(data)


def test_a_worker_does_without_the_root_that_was_given(opened: Any, tmp_path: Path) -> None:
    data = pickle.dumps(opened)
    (tmp_path / "root0").rename(tmp_path / "away")
    assert_same(pickle.loads(data).load(), tensors(1))


def test_a_pickle_that_was_refused_holds_no_generation(
    tmp_path: Path,
) -> None:
    store = create(tmp_path, 2)
    store.save(tensors(1))
    data = pickle.dumps(store).replace(store._opened.pinned.encoded.digest.encode(), b"0" * 64)
    with pytest.raises(fastio.ConflictError, match="is not the one that was pickled") as raised:
        pickle.loads(data)
    store.save(tensors(2))
    assert store.gc().in_use == ()
    del raised


def test_a_copy_of_a_store_leads_a_worker_to_the_copy(tmp_path: Path) -> None:
    original = create(tmp_path / "original", 2)
    original.save(tensors(1))
    shutil.copytree(tmp_path / "original", tmp_path / "copy")
    data = pickle.dumps(fastio.open(tmp_path / "copy" / "root0"))
    shutil.rmtree(tmp_path / "original")
    with pickle.loads(data) as again:
        assert_same(again.load(), tensors(1))
        assert str(tmp_path / "copy") in again.info("long").path


@pytest.mark.parametrize("name", ["embedding", "long", "layers.0.weight"])
def test_a_view_travels_with_its_generation(tmp_path: Path, name: str) -> None:
    store = create(tmp_path, 2)
    store.save(tensors(1))
    with fastio.open(tmp_path / "root0") as reader:
        data = pickle.dumps(reader[name])
        store.save(tensors(2))
        assert_same({name: pickle.loads(data)[...]}, {name: tensors(1)[name]})


def test_a_view_of_a_file_that_was_replaced_is_of_the_tensor_of_its_name(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    made = tensors(1)
    fastio.save({"a": made["flags"], "b": made["long"]}, path)
    views = [fastio.open(path)["b"], fastio.safe_open(path, "np").get_slice("b")]
    data = [pickle.dumps(view) for view in views]
    fastio.save({"a": made["embedding"], "b": made["swapped"], "c": made["scalar"]}, path)
    for each in data:
        assert_same({"b": pickle.loads(each)[:]}, {"b": made["swapped"]})
    fastio.save({"a": made["embedding"]}, path)
    with pytest.raises(fastio.TensorNotFoundError):
        pickle.loads(data[0])
