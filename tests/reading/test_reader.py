"""open: a reader's properties, its refusals, and its closing."""

import gc
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch

import fastio
import testbed
from samples import (
    CHUNK_BYTES,
    MODEL,
    bytes_of,
    data_start,
    eventually,
    expected_bytes,
    open_files,
    same_bytes,
    write,
    write_even,
    write_model,
)


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    return fastio.seal(write_model(tmp_path / "model"))


def test_a_reader_lists_its_names_and_files(sealed: Path) -> None:
    with fastio.open(sealed) as reader:
        assert reader.keys() == list(reader) == list(MODEL)
        assert len(reader) == len(MODEL)
        assert "mask" in reader
        assert "task" not in reader
        assert 7 not in reader
        assert repr(reader) == f"<fastio.Reader of {sealed}>"
        offset = data_start(sealed)
        for name, (dtype, shape) in MODEL.items():
            info = reader.info(name)
            assert (info.name, info.dtype, info.shape) == (name, dtype, shape)
            assert (info.path, info.offset) == (str(sealed), offset)
            offset += info.nbytes
        assert offset == sealed.stat().st_size
        report = reader.report
        assert (report.files, report.tensors, report.bytes_read) == (1, len(MODEL), 0)


def test_metadata_is_the_users_and_the_first_files_first(tmp_path: Path) -> None:
    paths = [tmp_path / "one", tmp_path / "two"]
    for i, path in enumerate(paths):
        metadata = {"both": path.name, f"only.{i}": "x"}
        safetensors.numpy.save_file({f"t{i}": np.zeros(3)}, path, metadata=metadata)
        fastio.seal(path)
    with fastio.open(paths) as reader:
        assert dict(reader.metadata) == {"both": "one", "only.0": "x", "only.1": "x"}
        with pytest.raises(TypeError):
            reader.metadata["both"] = "mine"  # type: ignore[index]


@pytest.mark.parametrize("framework", ["numpy", "torch"])
@pytest.mark.parametrize("temperature", ["cold", "warm", "mapped"])
def test_a_readers_load_and_read_give_the_tensors_of_load(
    sealed: Path, engine: Any, framework: Any, temperature: str
) -> None:
    expected = expected_bytes(sealed)
    if temperature == "cold":
        testbed.evict(sealed)
    options = fastio.Options(engine=engine, mapping="auto" if temperature == "mapped" else "never")
    with fastio.open(sealed, framework=framework, options=options) as reader:
        assert same_bytes(reader.load(), expected)
        some = ["mask", "layers.0.empty", "embed.weight", "mask"]
        read = reader.read(iter(some))  # type: ignore[arg-type]
        assert list(read) == some[:3]
        assert same_bytes(read, {name: expected[name] for name in some})
        assert reader.read([]) == {}
        kind: Any = torch.Tensor if framework == "torch" else np.ndarray
        assert all(isinstance(tensor, kind) for tensor in read.values())
        for name in MODEL:
            assert bytes_of(reader.tensor(name)) == bytes_of(reader[name][...]) == expected[name]
        assert reader.report.chunks_verified >= 12


@pytest.mark.parametrize("call", ["info", "tensor", "__getitem__"])
def test_the_error_for_a_missing_name_suggests_similar_ones(sealed: Path, call: str) -> None:
    with fastio.open(sealed) as reader:
        with pytest.raises(fastio.TensorNotFoundError, match="did you mean") as raised:
            getattr(reader, call)("layers.0.wieght")
        assert raised.value.matches[0] == "layers.0.weight"
        assert isinstance(raised.value, KeyError)
        for name in (3, b"mask", None, ["mask"]):
            with pytest.raises(TypeError, match="must be a str"):
                getattr(reader, call)(name)
        with pytest.raises(fastio.TensorNotFoundError):
            reader.read(["mask", "task"])
        with pytest.raises(fastio.TensorNotFoundError):
            reader.stream(["task"])
        for read in (reader.read, reader.stream):
            with pytest.raises(TypeError, match="collection of str"):
                read("mask")


def test_a_dtype_that_the_framework_lacks_is_refused_at_its_read(tmp_path: Path) -> None:
    path = write(tmp_path / "model", {"f6": ("F6_E3M2", (4,)), "fine": ("U8", (4,))})
    with fastio.open(path) as reader:
        calls: list[Any] = [
            lambda: reader["f6"],
            lambda: reader.tensor("f6"),
            reader.load,
            reader.stream,
            lambda: reader.read(["f6"]),
        ]
        for call in calls:
            with pytest.raises(TypeError, match="F6_E3M2"):
                call()
        assert bytes_of(reader.tensor("fine")) == expected_bytes(path)["fine"]
        assert reader.info("f6").shape == (4,)


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"framework": "theano"}, fastio.UsageError),
        ({"framework": "PT"}, fastio.UsageError),
        ({"framework": None}, fastio.UsageError),
        ({"verify": "always"}, ValueError),
        ({"options": {"lanes": 2}}, TypeError),
    ],
)
def test_invalid_arguments_are_refused(sealed: Path, arguments: Any, kind: Any) -> None:
    files = open_files()
    with pytest.raises(kind):
        fastio.open(sealed, **arguments)
    assert open_files() <= files


def test_a_reader_refuses_the_same_sources_as_load(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"no tensors at all")
    for source in (tmp_path / "nothing", tmp_path / "text", tmp_path, [tmp_path], [], 7):
        with pytest.raises(Exception) as by_load:
            fastio.load(source)  # type: ignore[arg-type]
        with pytest.raises(by_load.type):
            fastio.open(source)  # type: ignore[arg-type]


def test_a_path_that_is_no_text_is_a_path(sealed: Path) -> None:
    expected = expected_bytes(sealed)
    odd = os.fsencode(sealed) + b".\xff\xfe"
    os.rename(sealed, odd)
    with fastio.open(os.fsdecode(odd)) as reader:
        assert same_bytes(reader.load(), expected)
        assert os.fsencode(reader.info("mask").path) == odd
        with pickle.loads(pickle.dumps(reader)) as again:
            assert bytes_of(again.tensor("mask")) == expected["mask"]
    targets = {"mask": np.zeros(77, bool)}
    fastio.load_into(os.fsdecode(odd), targets, strict=False)
    assert bytes_of(targets["mask"]) == expected["mask"]


def test_a_closed_reader_says_so(sealed: Path) -> None:
    with fastio.open(sealed) as reader:
        view = reader["embed.weight"]
        kept = view[3:5]
        expected = bytes_of(kept)
        reader.load()
    reader.close()  # once more, to no effect
    calls: list[Any] = [
        reader.keys,
        lambda: len(reader),
        lambda: "mask" in reader,
        lambda: reader.metadata,
        lambda: reader.info("mask"),
        lambda: reader["mask"],
        lambda: reader.tensor("mask"),
        lambda: reader.read(["mask"]),
        reader.load,
        reader.stream,
        lambda: view[0],
        lambda: view[...],
        lambda: pickle.dumps(reader),
    ]
    for call in calls:
        with pytest.raises(fastio.UsageError, match="closed"):
            call()
    assert bytes_of(kept) == expected
    assert view.shape == (1000, 1024)
    report = reader.report
    assert (report.files, report.tensors) == (1, len(MODEL))
    assert report.chunks_verified >= 12


@pytest.mark.parametrize("mapping", ["auto", "never"])
def test_a_closed_reader_holds_no_file_though_it_lives(sealed: Path, mapping: Any) -> None:
    gc.collect()
    before = open_files()
    reader = fastio.open(sealed, options=fastio.Options(mapping=mapping))
    view = reader["mask"]
    kept = [reader.tensor(name) for name in reader]
    assert open_files() > before
    reader.close()
    assert eventually(lambda: open_files() <= before)
    assert len(kept) == len(MODEL)
    assert view.name == "mask"


def test_a_source_that_cannot_be_mapped_is_read(tmp_path: Path) -> None:
    path = fastio.seal(write_even(tmp_path / "model", 4, 64 * CHUNK_BYTES))
    code = """
import resource, sys
import fastio, fastio.frameworks.numpy

with open("/proc/self/status", encoding="ascii") as lines:
    size = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmSize"))
resource.setrlimit(resource.RLIMIT_AS, (size + (160 << 20), size + (160 << 20)))
with fastio.open(sys.argv[1]) as reader:
    print(len(reader["t2"][5:15]), reader.report.engine)
"""
    with testbed.kept_warm(path):
        said = testbed.run_python(code, path).check().stdout.split()
    assert said[0] == "10"
    assert said[1] != "mmap"


def test_bytes_are_counted_over_all_ways_to_read(sealed: Path, engine: Any) -> None:
    options = fastio.Options(engine=engine, cache="bypass", mapping="never")
    with fastio.open(sealed, options=options) as reader:
        counted = [0]
        for read in (
            reader.load,
            lambda: reader["embed.weight"][5],
            lambda: reader.tensor("layers.0.weight"),
            lambda: list(reader.stream()),
            lambda: reader.read(["mask"]),
        ):
            read()
            report = reader.report
            assert report.bytes_direct == report.bytes_read > counted[-1]
            assert report.engine == engine
            counted.append(report.bytes_read)
        assert reader.report == report
        assert report.unverified == ()
