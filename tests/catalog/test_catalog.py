"""The catalog: names in file order, found, selected, and suggested for misspelled ones."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import fastio
from fastio.catalog import Catalog, OneFile, Shard
from fastio.catalog.dtypes import DTYPES, shapes_in_memory
from fastio.catalog.encodings import StoredPart
from fastio.formats import huggingface
from fastio.formats.safetensors import InMemory
from samples import MODEL, data_start, nbytes_of, write, write_model


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
    number: Any = 3
    assert number not in catalog
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


def test_a_tensors_info_is_a_value(catalog: Catalog) -> None:
    info = catalog.info("mask")
    assert {info: 1}[catalog.info("mask")] == 1
    with pytest.raises(AttributeError):
        info.offset = 0  # type: ignore[misc]


def test_a_selection_holds_only_the_files_that_it_needs(tmp_path: Path) -> None:
    paths = [
        write(tmp_path / f"{shard}.safetensors", {f"{shard}{i}": ("U8", (i,)) for i in range(3)})
        for shard in "abc"
    ]
    some = huggingface.locate(paths).select(["c1", "a2", "c0"])
    assert list(some) == ["a2", "c0", "c1"]
    assert [shard.path for shard in some.shards] == [str(paths[0]), str(paths[2])]
    assert some.info("c1").path == str(paths[2])
    with pytest.raises(fastio.TensorNotFoundError):
        some.info("a1")


def test_a_name_in_two_files_is_refused_with_both(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{number}.safetensors", {"w": ("U8", (1,))}) for number in range(2)]
    with pytest.raises(fastio.FormatError, match="tensor 'w', and so has") as raised:
        huggingface.locate(paths)
    assert raised.value.path == str(paths[1])
    assert str(paths[0]) in str(raised.value)


def test_values_of_four_bits_are_counted_in_pairs() -> None:
    shapes = [(2, 4), (3, 5), (6,)]
    assert shapes_in_memory(["F4", "U8", "F4"], shapes) == [(2, 2), (3, 5), (3,)]
    assert shapes_in_memory(["U8", "F6_E2M3", "BF16"], shapes) == shapes


def test_an_empty_catalog(tmp_path: Path) -> None:
    catalog = huggingface.locate(write(tmp_path / "model.safetensors", {}))
    assert (len(catalog), list(catalog), list(catalog.select([]))) == (0, [], [])
    with pytest.raises(fastio.TensorNotFoundError) as raised:
        catalog.info("w")
    assert raised.value.matches == ()


@pytest.mark.parametrize(
    ("dtype", "bits", "align_bytes"),
    [
        ("F4", 4, 1),
        ("F6_E3M2", 6, 1),
        ("BOOL", 8, 1),
        ("BF16", 16, 2),
        ("F32", 32, 4),
        ("C64", 64, 8),
        ("I64", 64, 8),
    ],
)
def test_a_dtype_has_a_size_and_an_alignment(dtype: str, bits: int, align_bytes: int) -> None:
    assert (DTYPES[dtype].name, DTYPES[dtype].bits) == (dtype, bits)
    assert DTYPES[dtype].align_bytes == align_bytes


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


@pytest.mark.parametrize(
    "name", ["xayers.1500.weight", "layers.1500.weighx", "layers.15000.weight"]
)
def test_suggestions_compare_few_names_of_a_large_catalog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    layers = {f"layers.{i}.weight": ("U8", (0,)) for i in range(3000)}
    long = {"layers.1500." + letter * 100_000: ("U8", (0,)) for letter in "ab"}
    catalog = huggingface.locate(write(tmp_path / "model.safetensors", {**layers, **long}))
    compared: list[str] = []
    real = difflib.get_close_matches

    def noting(word: str, candidates: Iterable[str], n: int) -> list[str]:
        compared.extend(candidates)
        return real(word, compared, n)

    monkeypatch.setattr(difflib, "get_close_matches", noting)
    with pytest.raises(fastio.TensorNotFoundError) as raised:
        catalog.info(name)
    assert raised.value.matches[0] == "layers.1500.weight"
    assert len(compared) <= 300
    assert max(map(len, compared)) < 1000


@pytest.mark.parametrize("names", ["mask", b"mask"])
def test_a_single_string_is_no_collection_of_names(catalog: Catalog, names: Any) -> None:
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
    assert "layers.0.empty" not in shard.names_within(0, shard.files.nbytes)


def _encoded_shard() -> Shard:
    """Raw a, c and e; b in two parts around c, and d without stored bytes."""
    encoding: Any = SimpleNamespace(name="none")
    return Shard(
        files=OneFile(InMemory("file", 1000, b"")),
        names=list("abcde"),
        dtypes=["U8", "F32", "U8", "F4", "U8"],
        shapes=[(10,), (5, 5), (20,), (4, 6), (30,)],
        begins=np.array([100, 110, 120, 140, 150]),
        ends=np.array([110, 150, 140, 140, 180]),
        metadata={},
        encodings={
            1: (StoredPart(110, 120, encoding), StoredPart(140, 150, encoding)),
            3: (StoredPart(140, 140, encoding),),
        },
    )


def test_encoded_tensors_have_the_bytes_of_their_shape() -> None:
    shard = _encoded_shard()
    assert [shard.nbytes_of(row) for row in range(5)] == [10, 100, 20, 12, 30]
    assert shard.nbytes() == 172
    info = Catalog([shard], "file").info("b")
    assert (info.offset, info.nbytes, info.shape) == (110, 100, (5, 5))


def test_only_tensors_with_stored_bytes_in_an_extent_are_named() -> None:
    shard = _encoded_shard()
    assert shard.names_within(105, 10) == ("a", "b")
    assert shard.names_within(125, 5) == ("c",)
    assert shard.names_within(139, 12) == ("b", "c", "e")


def test_some_tensors_keep_their_parts_and_raw_ones_have_none() -> None:
    shard = _encoded_shard()
    some = shard.take([1, 2, 3])
    assert [some.parts_of(row) for row in range(3)] == [shard.parts_of(1), None, shard.parts_of(3)]
    assert shard.take([0, 2]).encodings is None
