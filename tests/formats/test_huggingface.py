"""The sources that callers pass, and the contents of a checkpoint's index."""

import errno
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastio
from fastio.formats import huggingface
from fastio.formats import index as index_format
from samples import expected_bytes, same_bytes, write


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


def test_other_keys_of_an_index_than_its_map_are_ignored(checkpoint: Path) -> None:
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


def test_a_file_offers_only_the_tensors_that_the_index_names(checkpoint: Path) -> None:
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
    # A file called model.* precedes all others.
    _index(tmp_path, {"z": "model.safetensors"})
    assert list(fastio.load(tmp_path)) == ["z"]


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors.index.fp16.json",
        "diffusion_pytorch_model.safetensors.index.json",
        "weights.json",
        "blob-without-an-ending",
    ],
)
def test_an_index_is_a_source_whatever_its_name(checkpoint: Path, name: str) -> None:
    index = (checkpoint / "model.safetensors.index.json").rename(checkpoint / name)
    expected = expected_bytes(*checkpoint.glob("*.safetensors"))
    assert same_bytes(fastio.load(index), expected)
    assert same_bytes(fastio.load(index, names=["c"]), {"c": expected["c"]})


@pytest.mark.parametrize(
    "text", ['{"weight_map":{"a":"x"', '{"weight_map":3}', '{"weight_map":{}}']
)
def test_an_index_by_another_name_is_as_strict(tmp_path: Path, text: str) -> None:
    path = tmp_path / "model.safetensors.index.fp16.json"
    path.write_text(text)
    with pytest.raises(fastio.FormatError, match=r"JSON|weight_map") as raised:
        fastio.load(path)
    assert raised.value.path == str(path)
    assert "safetensors file" not in str(raised.value)


def test_an_index_among_several_files_is_called_one(checkpoint: Path) -> None:
    index = checkpoint / "model.safetensors.index.json"
    with pytest.raises(fastio.FormatError, match="is an index of shards"):
        fastio.load([index])
    with pytest.raises(fastio.FormatError, match="is an index of shards"):
        fastio.safe_open(index, "np")


def test_a_folder_among_several_files_is_called_one(checkpoint: Path) -> None:
    with pytest.raises(IsADirectoryError, match="by its path alone") as raised:
        fastio.load([checkpoint])
    assert (raised.value.errno, raised.value.filename) == (errno.EISDIR, str(checkpoint))


@pytest.mark.parametrize(
    "spelling", ["model-{}.fp16.safetensors", "model.fp16-{}.safetensors"], ids=["old", "new"]
)
def test_an_only_index_of_a_variant_is_taken(tmp_path: Path, spelling: str) -> None:
    """transformers changed how it calls the shards of a variant."""
    one = _shard(tmp_path, spelling.format("00001-of-00002"), "a")
    two = _shard(tmp_path, spelling.format("00002-of-00002"), "b")
    index = _index(tmp_path, {"a": one.name}, "model.safetensors.index.fp16.json")
    assert list(fastio.load(tmp_path)) == ["a"]
    # The checkpoint itself precedes its variants and all other files.
    _shard(tmp_path, "model.safetensors", "z")
    assert list(fastio.load(tmp_path)) == ["z"]
    assert list(fastio.load(index)) == ["a"]
    assert list(fastio.load(two)) == ["b"]


def test_files_beside_an_index_of_another_variant_are_named(tmp_path: Path) -> None:
    one = _shard(tmp_path, "unet.fp16.safetensors", "a")
    _shard(tmp_path, "unet.safetensors", "a")
    index = _index(tmp_path, {"a": one.name}, "unet.safetensors.index.fp16.json")
    words = r"unet\.safetensors\.index\.fp16\.json.*unet\.safetensors.*pass the path"
    with pytest.raises(fastio.FormatError, match=words):
        fastio.load(tmp_path)
    assert list(fastio.load(index)) == ["a"]


def test_variants_without_an_index_say_how_to_choose(tmp_path: Path) -> None:
    for name in ("unet.fp16.safetensors", "unet.safetensors"):
        _shard(tmp_path, name, "a")
    words = r"unet\.safetensors: has a tensor 'a'.*unet\.fp16\.safetensors.*or the path of one file"
    with pytest.raises(fastio.FormatError, match=words):
        fastio.load(tmp_path)


def test_indexes_of_several_variants_are_listed(tmp_path: Path) -> None:
    for variant in ("bf16", "fp16"):
        _index(tmp_path, {}, f"unet.safetensors.index.{variant}.json")
    with pytest.raises(fastio.FormatError, match=r"2 indexes: .*\.bf16\.json, .*\.fp16\.json"):
        fastio.load(tmp_path)


def test_several_indexes_are_listed(tmp_path: Path) -> None:
    for name in ("one", "two"):
        _index(tmp_path, {}, f"{name}.safetensors.index.json")
    with pytest.raises(fastio.FormatError, match=r"one\.safetensors.*two\.safetensors") as raised:
        fastio.load(tmp_path)
    assert raised.value.path == str(tmp_path)


def test_the_error_for_a_folder_without_safetensors_names_the_missing_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    with pytest.raises(fastio.FormatError, match=r"no safetensors files.*model\.safetensors"):
        fastio.load(tmp_path)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            ["pytorch_model-1.bin", "pytorch_model-2.bin"],
            r"PyTorch.*pytorch_model-1\.bin, .*-2\.bin",
        ),
        (["a.ggml", "b.npz", "c.h5"], r"GGML file: a\.ggml.*\.npz file: b\.npz.*HDF5 file: c\.h5"),
        (["weights.ONNX"], r"ONNX file: weights\.ONNX"),
        (["unet/x.safetensors", "vae/y.safetensors"], r"these below it do: unet, vae"),
        (["snapshots/12ab/model.safetensors"], r"these below it do: snapshots/12ab"),
    ],
)
def test_the_error_for_a_folder_without_safetensors_names_its_other_formats(
    tmp_path: Path, files: list[str], words: str
) -> None:
    for file in files:
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with pytest.raises(fastio.FormatError, match=f"has no safetensors files.*{words}") as raised:
        fastio.load(tmp_path)
    assert raised.value.path == str(tmp_path)


@pytest.mark.parametrize("name", ["gone", "gone.safetensors", "gone.safetensors.index.json"])
def test_a_missing_source_is_a_file_not_found(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError) as raised:
        fastio.load(tmp_path / name)
    assert raised.value.filename == str(tmp_path / name)


def test_a_missing_shard_is_named_with_its_index(checkpoint: Path) -> None:
    (checkpoint / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"index\.json names it.*names=") as raised:
        fastio.load(checkpoint)
    assert raised.value.errno == errno.ENOENT
    assert raised.value.filename.endswith("model-00002-of-00002.safetensors")


def test_each_file_of_an_index_is_checked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"layers.{number}.weight" for number in range(500)]
    _shard(tmp_path, "x.safetensors", *names[::2])
    _shard(tmp_path, "y.safetensors", *names[1::2])
    _index(tmp_path, {name: "xy"[at % 2] + ".safetensors" for at, name in enumerate(names)})
    checked: list[str] = []
    check = index_format._stays_inside

    def recorded(file: str) -> bool:
        checked.append(file)
        return check(file)

    monkeypatch.setattr(index_format, "_stays_inside", recorded)
    assert len(fastio.load(tmp_path)) == 500
    assert checked == ["x.safetensors", "y.safetensors"]


def test_a_file_of_the_index_that_is_damaged_is_named(checkpoint: Path) -> None:
    path = checkpoint / "model-00002-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(fastio.FormatError, match="cut off") as raised:
        fastio.load(checkpoint)
    assert raised.value.path == str(path)


def test_a_folder_named_like_a_file_is_read_as_a_folder(tmp_path: Path) -> None:
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


@pytest.fixture
def lacking(checkpoint: Path) -> Path:
    """A checkpoint whose index lists 'gone' and 'lost' in files that lack them."""
    one, two = (f"model-0000{number}-of-00002.safetensors" for number in (1, 2))
    _index(checkpoint, {"a": one, "b": one, "gone": one, "c": two, "lost": two})
    return checkpoint


def test_loading_everything_names_the_tensors_that_the_files_lack(lacking: Path) -> None:
    with pytest.raises(fastio.FormatError, match=r"no tensor 'gone'.*index\.json") as raised:
        fastio.load(lacking)
    assert raised.value.path.endswith("model-00001-of-00002.safetensors")
    assert "other files lack 1" in str(raised.value)
    assert "names=[…]" in str(raised.value)
    with pytest.raises(fastio.FormatError, match="'gone'"):
        fastio.load_into(lacking, {name: np.zeros(10, np.uint8) for name in "abc"})


def test_present_tensors_of_an_incomplete_index_are_loaded_by_name(lacking: Path) -> None:
    expected = expected_bytes(*lacking.glob("*.safetensors"))
    assert same_bytes(fastio.load(lacking, names=["a", "c"]), {n: expected[n] for n in "ac"})
    tensors = {"b": np.zeros(10, np.uint8)}
    fastio.load_into(lacking, tensors, strict=False)
    assert same_bytes(tensors, {"b": expected["b"]})


def test_a_reader_has_the_tensors_of_its_files_and_names_the_missing_ones(
    lacking: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING", logger="fastio"), fastio.open(lacking) as reader:
        assert reader.keys() == ["a", "b", "c"]
        assert "gone" not in reader
        assert same_bytes(reader.load(), expected_bytes(*lacking.glob("*.safetensors")))
        told = reader.report.fallbacks
        with pytest.raises(
            fastio.TensorNotFoundError, match=r"'gone'.*index\.json lists it in .*1-of"
        ):
            reader["gone"]
    assert [record.getMessage() for record in caplog.records] == ["; ".join(told)]
    assert ["'gone'" in line for line in told] == [True, False]
    assert "'lost'" in told[1]


@pytest.mark.parametrize("names", [["gone"], ["a", "gone"]])
def test_a_name_that_only_the_index_has_is_not_found(lacking: Path, names: list[str]) -> None:
    with pytest.raises(fastio.TensorNotFoundError, match="which does not have it") as raised:
        fastio.load(lacking, names=names)
    assert raised.value.name == "gone"
    assert "which does not have it" in str(pickle.loads(pickle.dumps(raised.value)))


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
def test_an_invalid_index_is_refused(tmp_path: Path, text: str) -> None:
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
