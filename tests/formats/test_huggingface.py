"""What people hand over as a source, and what a checkpoint's index may say."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

import fastio
from fastio.formats import huggingface
from load.samples import expected_bytes, same_bytes, write


def _shard(folder: Path, file: str, *names: str) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    return write(folder / file, dict.fromkeys(names, ("U8", (10,))), seed=len(file))


def _index(folder: Path, weight_map: Any, file: str = "model.safetensors.index.json") -> Path:
    path = folder / file
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    _shard(folder, "model-00001-of-00002.safetensors", "a", "b")
    _shard(folder, "model-00002-of-00002.safetensors", "c")
    weight_map = {"a": 1, "b": 1, "c": 2}
    _index(folder, {k: f"model-0000{v}-of-00002.safetensors" for k, v in weight_map.items()})
    return folder


def test_a_folder_and_its_index_are_the_same_source(checkpoint: Path) -> None:
    expected = expected_bytes(*sorted(checkpoint.glob("*.safetensors")))
    index = checkpoint / "model.safetensors.index.json"
    for source in (checkpoint, str(checkpoint), f"{checkpoint}/", index, str(index)):
        assert same_bytes(fastio.load(source), expected)


def test_a_list_of_files_is_a_source(checkpoint: Path) -> None:
    files = sorted(checkpoint.glob("*.safetensors"))
    for source in (files, tuple(map(str, files))):
        assert same_bytes(fastio.load(source), expected_bytes(*files))


def test_files_are_taken_in_the_order_given(tmp_path: Path) -> None:
    files = [_shard(tmp_path, f"{name}.safetensors", name) for name in ("b", "c", "a")]
    assert list(fastio.load(files)) == ["b", "c", "a"]
    assert huggingface.locate(files).source == f"{files[0]} and 2 more files"


def test_a_file_is_a_source_whatever_its_name(tmp_path: Path) -> None:
    path = _shard(tmp_path, "weights.bin", "a")
    assert list(fastio.load(path)) == ["a"]
    assert list(fastio.load([path])) == ["a"]


def test_any_path_like_object_is_a_source(checkpoint: Path) -> None:
    class Where:
        def __fspath__(self) -> str:
            return str(checkpoint)

    assert list(fastio.load(Where())) == ["a", "b", "c"]


def test_a_folder_may_be_a_link(checkpoint: Path) -> None:
    link = checkpoint.parent / "link"
    link.symlink_to(checkpoint.name)
    assert list(fastio.load(link)) == ["a", "b", "c"]


def test_what_an_index_says_beside_the_map_does_not_matter(checkpoint: Path) -> None:
    index = checkpoint / "model.safetensors.index.json"
    decoded = json.loads(index.read_text())
    for more in ({"metadata": None}, {"metadata": [1]}, {"other": {"a": {"b": 1}}}):
        index.write_text(json.dumps({**more, "weight_map": decoded["weight_map"]}, indent=2) + "\n")
        assert list(fastio.load(checkpoint)) == ["a", "b", "c"]
    index.write_text(json.dumps({"weight_map": decoded["weight_map"]}))
    assert list(fastio.load(checkpoint)) == ["a", "b", "c"]


def test_files_that_the_index_does_not_name_are_not_even_opened(checkpoint: Path) -> None:
    (checkpoint / "model-00003-of-00002.safetensors").write_bytes(b"no")
    (checkpoint / "adapter_model.safetensors").write_bytes(b"no")
    assert list(fastio.load(checkpoint)) == ["a", "b", "c"]


def test_of_a_file_only_the_tensors_are_offered_that_the_index_names(checkpoint: Path) -> None:
    _index(checkpoint, {"b": "model-00001-of-00002.safetensors"})
    assert list(fastio.load(checkpoint)) == ["b"]
    with pytest.raises(fastio.TensorNotFoundError, match="'c'"):
        fastio.load(checkpoint, names=["c"])


def test_files_of_a_hub_cache_are_links(checkpoint: Path) -> None:
    blobs = checkpoint.parent / "blobs"
    blobs.mkdir()
    expected = expected_bytes(*checkpoint.glob("*.safetensors"))
    for number, path in enumerate(sorted(checkpoint.iterdir())):
        path.rename(blobs / str(number))
        path.symlink_to(f"../blobs/{number}")
    assert same_bytes(fastio.load(checkpoint), expected)


def test_a_shard_may_lie_in_a_folder_below(checkpoint: Path) -> None:
    _shard(checkpoint / "below", "x.safetensors", "d")
    _index(checkpoint, {"d": "below/x.safetensors"})
    assert list(fastio.load(checkpoint)) == ["d"]


@pytest.mark.parametrize(
    ("files", "taken"),
    [
        (["model.safetensors", "adapter.safetensors"], ["model.safetensors"]),
        (["b.safetensors", "a.safetensors"], ["a.safetensors", "b.safetensors"]),
        (["only.safetensors", ".hidden.safetensors"], ["only.safetensors"]),
    ],
    ids=["model first", "all, sorted", "none that is hidden"],
)
def test_which_files_of_a_folder_without_an_index(
    tmp_path: Path, files: list[str], taken: list[str]
) -> None:
    for file in files:
        _shard(tmp_path, file, file)
    assert list(fastio.load(tmp_path)) == taken


def test_an_only_index_is_taken_whatever_its_name(tmp_path: Path) -> None:
    _shard(tmp_path, "x.safetensors", "a")
    _shard(tmp_path, "model.safetensors", "z")
    _index(tmp_path, {"a": "x.safetensors"}, "other.safetensors.index.json")
    assert list(fastio.load(tmp_path)) == ["a"]
    # One called model.* comes before all others.
    _index(tmp_path, {"z": "model.safetensors"})
    assert list(fastio.load(tmp_path)) == ["z"]


def test_several_indexes_are_listed(tmp_path: Path) -> None:
    for name in ("one", "two"):
        _index(tmp_path, {}, f"{name}.safetensors.index.json")
    with pytest.raises(fastio.FormatError, match=r"one\.safetensors.*two\.safetensors") as raised:
        fastio.load(tmp_path)
    assert raised.value.path == str(tmp_path)


def test_a_folder_without_safetensors_says_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(fastio.FormatError, match=r"no safetensors files.*model\.safetensors"):
        fastio.load(tmp_path)


@pytest.mark.parametrize("name", ["gone", "gone.safetensors", "gone.safetensors.index.json"])
def test_a_missing_source_is_a_file_not_found(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError) as raised:
        fastio.load(tmp_path / name)
    assert raised.value.filename == str(tmp_path / name)


def test_a_missing_shard_is_named_with_its_index(checkpoint: Path) -> None:
    (checkpoint / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"index\.json names it") as raised:
        fastio.load(checkpoint)
    assert raised.value.errno == errno.ENOENT
    assert raised.value.filename.endswith("model-00002-of-00002.safetensors")


def test_a_file_of_the_index_that_is_damaged_is_named(checkpoint: Path) -> None:
    path = checkpoint / "model-00002-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(fastio.FormatError, match="cut off") as raised:
        fastio.load(checkpoint)
    assert raised.value.path == str(path)


def test_a_folder_that_is_called_like_a_file_is_none(tmp_path: Path) -> None:
    path = _shard(tmp_path, "model-1.safetensors", "a")
    (tmp_path / "old.safetensors").mkdir()
    assert same_bytes(fastio.load(tmp_path), expected_bytes(path))


def test_only_the_shards_of_the_names_asked_for_are_opened(checkpoint: Path) -> None:
    weight_map = json.loads((checkpoint / "model.safetensors.index.json").read_text())["weight_map"]
    name, shard = next(iter(weight_map.items()))
    for other in set(weight_map.values()) - {shard}:
        (checkpoint / other).unlink()
    expected = expected_bytes(checkpoint / shard)[name]
    assert same_bytes(fastio.load(checkpoint, names=[name]), {name: expected})
    with pytest.raises(FileNotFoundError):
        fastio.load(checkpoint)


def test_a_link_to_nowhere_is_a_missing_file(checkpoint: Path) -> None:
    path = checkpoint / "model-00002-of-00002.safetensors"
    path.unlink()
    path.symlink_to("../blobs/gone")
    with pytest.raises(FileNotFoundError, match=r"index\.json names it"):
        fastio.load(checkpoint)


def test_a_tensor_that_its_shard_has_not_is_named(checkpoint: Path) -> None:
    _index(checkpoint, {"c": "model-00001-of-00002.safetensors"})
    with pytest.raises(fastio.FormatError, match=r"no tensor 'c'.*index\.json") as raised:
        fastio.load(checkpoint)
    assert raised.value.path.endswith("model-00001-of-00002.safetensors")


@pytest.mark.parametrize(
    "file",
    [
        "../x.safetensors",
        "/etc/passwd",
        "a/../../x.safetensors",
        "below/..",
        "//etc/passwd",
        True,
        {"file": "x.safetensors"},
        "",
        ".",
        "..",
        "a\0b",
        3,
        None,
        [],
    ],
    ids=repr,
)
def test_an_index_names_no_file_outside_its_folder(checkpoint: Path, file: object) -> None:
    _shard(checkpoint.parent, "x.safetensors", "a")
    index = _index(checkpoint, {"a": file})
    with pytest.raises(fastio.FormatError, match=r"'a'.*in the index's folder") as raised:
        fastio.load(checkpoint)
    assert raised.value.path == str(index)
    assert raised.value.offset is not None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"weight_map":null}',
        '{"weight_map":{}}',
        '{"weight_map":["a"]}',
        '{"weight_map":{"a":"x.safetensors","a":"x.safetensors"}}',
        '{"weight_map":{"a":"x.safetensors"},"weight_map":{}}',
        '{"weight_map":{"a":"x.safetensors","\\u0061":"x.safetensors"}}',
        '{"weight_map":{"\\ud800":"x.safetensors"}}',
        '{"weight_map":{"a":"x.safetensors"},"metadata":{"total_size":NaN}}',
        '{"weight_map":"x.safetensors"}',
        '{"weight_map":{"a":"x.safetensors"}} {}',
        '{"weight_map":{"a":"x.safetensors"}',
        "\xff",
        "[" * 100_000,
    ],
    ids=lambda text: text[:60] or "empty",
)
def test_an_index_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_bytes(text.encode("latin-1"))
    with pytest.raises(fastio.FormatError) as raised:
        fastio.load(tmp_path)
    assert raised.value.path == str(index)


def test_an_index_beyond_reason_is_refused_unread(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.touch()
    os.truncate(index, 2**28 + 1)
    with pytest.raises(fastio.FormatError, match=f"{2**28 + 1} bytes long"):
        fastio.load(tmp_path)


def test_a_name_in_two_files_is_refused_with_both(tmp_path: Path) -> None:
    paths = [_shard(tmp_path, "x.safetensors", "a", "b"), _shard(tmp_path, "y.safetensors", "b")]
    with pytest.raises(fastio.FormatError, match=r"'b'.*x\.safetensors") as raised:
        fastio.load(paths)
    assert raised.value.path == str(paths[1])
    with pytest.raises(fastio.FormatError):
        fastio.load([paths[0], paths[0]])


@pytest.mark.parametrize(
    "source",
    [
        None,
        3,
        b"bytes",
        {"a": 1},
        {"a"},
        pytest.param(iter(["a"]), id="an iterator"),
        ["a", None],
        [["a"]],
        [b"a"],
    ],
    ids=repr,
)
def test_a_source_that_is_none_is_a_type_error(source: Any) -> None:
    with pytest.raises(TypeError, match="path"):
        huggingface.locate(source)


def test_an_empty_list_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="empty"):
        huggingface.locate([])
