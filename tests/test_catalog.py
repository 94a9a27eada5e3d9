"""The catalog: names in file order, found, selected, and suggested when they are wrong."""

from pathlib import Path

import pytest

import fastio
from fastio.catalog import Catalog
from fastio.formats import huggingface
from load.samples import MODEL, data_start, nbytes_of, write, write_model


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model.safetensors")


@pytest.fixture
def catalog(path: Path) -> Catalog:
    return huggingface.locate(path)


def test_a_catalog_is_a_collection_of_names_in_file_order(catalog: Catalog) -> None:
    assert list(catalog) == list(MODEL)
    assert len(catalog) == len(MODEL)
    assert "mask" in catalog
    assert "task" not in catalog
    assert "8 tensors in 1 files" in repr(catalog)


def test_info_says_where_each_tensor_lies(catalog: Catalog, path: Path) -> None:
    at = data_start(path)
    for name, (dtype, shape) in MODEL.items():
        nbytes = nbytes_of(dtype, shape)
        assert catalog.info(name) == fastio.TensorInfo(name, dtype, shape, str(path), at, nbytes)
        at += nbytes
    assert at == path.stat().st_size


def test_info_over_several_files(tmp_path: Path) -> None:
    paths = [
        write(tmp_path / f"{shard}.safetensors", {f"{shard}{i}": ("U8", (i,)) for i in range(3)})
        for shard in "ab"
    ]
    catalog = huggingface.locate(paths)
    assert list(catalog) == ["a0", "a1", "a2", "b0", "b1", "b2"]
    for name in catalog:
        info = catalog.info(name)
        assert (info.path, info.nbytes) == (str(paths["ab".index(name[0])]), int(name[1]))


def test_a_selection_keeps_the_files_order_and_takes_a_name_once(catalog: Catalog) -> None:
    some = catalog.select(["mask", "embed.weight", "mask"])
    assert list(some) == ["embed.weight", "mask"]
    assert some.info("mask") == catalog.info("mask")
    assert list(catalog.select([])) == []


def test_a_missing_name_suggests_close_ones(catalog: Catalog) -> None:
    with pytest.raises(fastio.TensorNotFoundError) as raised:
        catalog.info("layers.0.wieght")
    assert raised.value.matches[0] == "layers.0.weight"
    assert raised.value.source == catalog.source
    with pytest.raises(fastio.TensorNotFoundError, match=r"did you mean 'embed\.weight'"):
        catalog.select({"model.embed.weight"})


def test_a_hostile_name_is_answered_too(catalog: Catalog) -> None:
    with pytest.raises(fastio.TensorNotFoundError) as raised:
        catalog.info("w" * 10_000_000)
    assert raised.value.matches == ()


@pytest.mark.parametrize("names", ["mask", b"mask"])
def test_a_single_string_is_no_collection_of_names(catalog: Catalog, names: str) -> None:
    with pytest.raises(TypeError, match="names must be a collection"):
        catalog.select(names)


def test_a_name_is_a_string(catalog: Catalog) -> None:
    with pytest.raises(TypeError, match="must be a str"):
        catalog.select([3])  # type: ignore[list-item]


def test_an_extent_knows_whose_bytes_it_has(catalog: Catalog) -> None:
    (shard,) = catalog.shards
    info = catalog.info("layers.0.scale")
    assert shard.names_within(info.offset, 1) == ("layers.0.scale",)
    assert shard.names_within(info.offset - 1, 2) == ("layers.0.weight", "layers.0.scale")
    assert shard.names_within(0, 8) == ()
    assert "layers.0.empty" not in shard.names_within(0, shard.file.nbytes)
