"""Small files, whose tensors are copied from the read of the header."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastio
import fastio.numpy
import fastio.torch
from fastio.frameworks import FrameworkName
from fastio.frameworks.numpy import DTYPES
from samples import bytes_of, expected_bytes, write

_SPEC = {
    f"{dtype}.{number}": (dtype, (*shape[:-1], 2 * shape[-1]) if dtype == "F4" else shape)
    for dtype in DTYPES
    for number, shape in enumerate([(7, 3), (0, 3), (5,)])
}


@pytest.fixture(params=["sealed", "unsealed"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = write(tmp_path / "model", _SPEC, start_modulo_8=3)
    return fastio.seal(path) if request.param == "sealed" else path


@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_a_small_files_tensors_equal_those_of_the_usual_load(
    path: Path, framework: FrameworkName
) -> None:
    usual = fastio.load(path, framework=framework, options=fastio.Options(engine="pread"))
    report = fastio.Report()
    found = fastio.load(path, framework=framework, report=report)
    assert list(found) == list(usual)
    for name, tensor in found.items():
        assert (tensor.dtype, tensor.shape) == (usual[name].dtype, usual[name].shape)
        assert bytes_of(tensor) == bytes_of(usual[name])
    assert report.engine == "inline"
    assert report.nbytes == sum(len(raw) for raw in expected_bytes(path).values())
    assert report.bytes_read == path.stat().st_size
    assert (report.tensors, report.files) == (len(_SPEC), 1)


def test_the_drop_ins_take_the_same_way(path: Path) -> None:
    expected = expected_bytes(path)
    for tensors in (fastio.numpy.load_file(path), fastio.torch.load_file(path)):
        assert {name: bytes_of(tensor) for name, tensor in tensors.items()} == expected
    assert bytes_of(fastio.numpy.load(path.read_bytes())["F32.0"]) == expected["F32.0"]


def test_each_tensor_has_memory_of_its_own(path: Path) -> None:
    tensors, expected = fastio.load(path), expected_bytes(path)
    for name in expected:
        tensor = tensors.pop(name)
        assert tensor.flags.writeable
        assert tensor.flags.aligned
        tensor.view(np.uint8)[...] = 0
        assert {other: bytes_of(left) for other, left in tensors.items()} == {
            other: expected[other] for other in tensors
        }


def test_a_small_file_is_verified(path: Path) -> None:
    report = fastio.Report()
    fastio.load(path, report=report)
    is_sealed = not report.unverified
    assert report.chunks_verified == int(is_sealed)
    if is_sealed:
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        with pytest.raises(fastio.ChecksumError, match=r"F32|U8|C64|F4"):
            fastio.load(path, report=report)
        assert report == fastio.Report()
        assert len(fastio.load(path, verify=False)) == len(_SPEC)


def test_small_files_obey_the_options(path: Path) -> None:
    report = fastio.Report()
    for options in ({"engine": "pread"}, {"cache": "bypass"}, {"memory_limit_bytes": 2**20}):
        fastio.load(path, options=fastio.Options(**options), report=report)
        assert report.engine_reason != "small: read whole with its header"
    with pytest.raises(fastio.MemoryLimitError):
        fastio.load(path, options=fastio.Options(memory_limit_bytes=100))


def test_some_tensors_of_a_small_file_are_loaded_by_name(path: Path) -> None:
    report = fastio.Report()
    tensors: dict[str, Any] = fastio.load(path, names=["U8.2", "F32.0"], report=report)
    expected = expected_bytes(path)
    assert {name: bytes_of(tensor) for name, tensor in tensors.items()} == {
        name: expected[name] for name in ("U8.2", "F32.0")
    }
    assert report.tensors == 2
    assert report.nbytes == len(expected["U8.2"]) + len(expected["F32.0"])


def test_a_reader_keeps_nothing_of_it(path: Path) -> None:
    with fastio.open(path) as reader:
        assert [shard.content for shard in reader._located.shards] == [None]
        assert bytes_of(reader["F32.0"][...]) == expected_bytes(path)["F32.0"]
