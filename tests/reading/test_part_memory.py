"""The peak memory of a part of a tensor: its result and a constant, for every index and wherever
the bytes lie.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastio
import testbed

_MIB = 1 << 20
_ROWS, _COLUMNS = 200_000, 1000
_TENSOR_BYTES = _ROWS * _COLUMNS
# The window of 64 MiB, kept chunks, and a margin; half of the tensor.
_BESIDE_BYTES_MAX = 100 * _MIB

_INDICES = {
    "strided rows": "np.s_[::1000]",
    "strided rows backwards": "np.s_[::-700]",
    "a column": "np.s_[:, 5]",
    "columns backwards": "np.s_[::3, 900::-300]",
    "listed rows": "np.arange(0, ROWS, 1000)",
    "listed rows in no order": "(np.arange(ROWS // 500) * 7919) % ROWS",
    "a row again and again": "np.full(50_000, ROWS // 2)",
    "a mask": "np.arange(ROWS) % 1500 == 3",
    "all rows backwards": "np.s_[::-1]",
    "dots": "np.s_[::900, ...]",
}
_MEASURE = """
import gc, json, sys
import numpy as np
import fastio, fastio.frameworks.numpy

def status(field):
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

path, options, rows, indices = sys.argv[1], *map(json.loads, sys.argv[2:])
ROWS = rows
beside = {}
for what, text in indices.items():
    index = eval(text)
    with fastio.open(path, options=fastio.Options(**options)) as reader:
        gc.collect()
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        before = status("VmRSS")
        part = reader["x"][index]
        beside[what] = status("VmHWM") - before - part.nbytes
        values = np.broadcast_to((np.arange(ROWS) % 251).astype(np.uint8)[:, None], (ROWS, 1000))
        assert np.array_equal(part, values[index]), what
        del part, values
print(json.dumps(beside))
"""


@pytest.fixture(scope="module")
def array() -> Any:
    """Row r has r % 251 in each of its columns."""
    return np.repeat((np.arange(_ROWS) % 251).astype(np.uint8)[:, None], _COLUMNS, 1)


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory, array: Any) -> Path:
    path = tmp_path_factory.mktemp("part_memory") / "sealed.safetensors"
    fastio.save({"x": array}, path)
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, array: Any) -> Path:
    """A file without checksums, whose tensor begins at an odd byte."""
    path = tmp_path_factory.mktemp("part_memory") / "plain.safetensors"
    header = json.dumps(
        {"x": {"dtype": "U8", "shape": array.shape, "data_offsets": [0, array.nbytes]}}
    ).encode()
    header += b" " * (len(header) % 2 == 0)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        array.tofile(file)
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, array: Any) -> Path:
    """A root of a store, in which the tensor is cut into pieces."""
    roots = [tmp_path_factory.mktemp("part_memory") / str(at) for at in range(2)]
    fastio.Store.create(roots, shard_bytes=64 * _MIB).save({"x": array})
    return roots[0]


def _beside(path: Path, **options: Any) -> dict[str, int]:
    result = testbed.run_python(
        _MEASURE, path, json.dumps(options), str(_ROWS), json.dumps(_INDICES)
    )
    return dict(json.loads(result.check().stdout))


def _check(beside: dict[str, int]) -> None:
    assert beside.keys() == _INDICES.keys()
    assert {what: nbytes for what, nbytes in beside.items() if nbytes > _BESIDE_BYTES_MAX} == {}


@pytest.mark.parametrize("cache", ["bypass", "keep"])
@pytest.mark.parametrize("kind", ["sealed", "plain"])
def test_a_part_takes_its_result_and_a_constant(
    request: pytest.FixtureRequest, kind: str, cache: str, engine: str
) -> None:
    path: Path = request.getfixturevalue(kind)
    testbed.evict(path)
    _check(_beside(path, cache=cache, engine=engine, mapping="never"))


def test_a_part_of_a_tensor_that_was_cut_does_too(store: Path) -> None:
    _check(_beside(store, cache="bypass"))


@pytest.mark.parametrize("kind", ["sealed", "plain"])
def test_a_part_of_a_mapped_file_does_too(request: pytest.FixtureRequest, kind: str) -> None:
    path: Path = request.getfixturevalue(kind)
    with testbed.kept_warm(path):
        _check(_beside(path))


def test_the_limit_bounds_the_result_and_the_reads_for_it(sealed: Path, plain: Path) -> None:
    for path in (sealed, plain):
        options = fastio.Options(cache="bypass", mapping="never", memory_limit_bytes=8 * _MIB)
        with fastio.open(path, options=options) as reader:
            part = reader["x"][:, 5]
            assert np.array_equal(part, (np.arange(_ROWS) % 251).astype(np.uint8))
            with pytest.raises(fastio.MemoryLimitError) as refused:
                reader["x"][:, :45]
            assert refused.value.asked_bytes >= 45 * _ROWS
            assert refused.value.limit_bytes == 8 * _MIB
        assert reader.report.bytes_read >= _TENSOR_BYTES


def test_a_limit_with_room_for_two_chunks_beside_the_result_suffices(sealed: Path) -> None:
    options = fastio.Options(cache="bypass", mapping="never", memory_limit_bytes=8 * _MIB)
    with fastio.open(sealed, options=options) as reader:
        assert reader["x"][:, :30].shape == (_ROWS, 30)
        with pytest.raises(fastio.MemoryLimitError):
            reader["x"][:, :41]
