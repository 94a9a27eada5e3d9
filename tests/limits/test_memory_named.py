"""A failed allocation is a MemoryError that names its purpose and size."""

from pathlib import Path

import numpy as np
import pytest

import fastio
import testbed

_BYTES = 96 << 20

# Lets this process allocate only the given number of further bytes.
_BOUND = """
import resource, sys
from pathlib import Path
import numpy as np
import fastio, fastio.numpy

def bound(more):
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    size = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))

path = Path(sys.argv[1])
"""
_LOADS = {
    "load": "fastio.load(path, options=options)",
    "stream": "dict(fastio.open(path, options=options).stream(memory_limit_bytes=1 << 30))",
    "reader": "fastio.open(path, options=options)['a'][:]",
    "slice": "fastio.open(path, options=options)['a'][1:]",
    "safe_open": "fastio.safe_open(path, 'np', options=options).get_tensor('a')",
    "numpy": "fastio.numpy.load_file(path)",
}


@pytest.fixture
def big(tmp_path: Path) -> Path:
    return fastio.save({"a": np.zeros(_BYTES, np.uint8)}, tmp_path / "model", durable=False)


def _assert_named(result: testbed.ChildResult, *words: str) -> None:
    assert result.exception == "MemoryError", result
    for word in words:
        assert word in (result.message or ""), result.message


@pytest.mark.parametrize("cache", ["bypass", "keep"])
@pytest.mark.parametrize("use", _LOADS)
def test_a_load_names_the_file_and_the_bytes(big: Path, use: str, cache: str) -> None:
    code = f"""
options = fastio.Options(mapping="never", cache={cache!r}, huge_pages="off", lanes=1)
bound(64 << 20)
{_LOADS[use]}
"""
    _assert_named(testbed.run_python(_BOUND + code, big), str(big), "bytes", "memory")


def test_a_load_into_places_that_need_staging_names_the_file(big: Path) -> None:
    code = """
place = np.zeros((96 << 20) + 1, np.uint8)[1:]
options = fastio.Options(cache="bypass", block_bytes=1 << 30, lanes=1)
bound(48 << 20)
fastio.load_into(path, {"a": place}, options=options)
"""
    _assert_named(testbed.run_python(_BOUND + code, big), str(big), "bytes")


@pytest.mark.parametrize("save", ["save", "start_save"])
def test_a_save_names_the_file_and_the_bytes(big: Path, save: str) -> None:
    code = f"""
array = np.zeros((64 << 20) + 2, np.uint8)[1::2]  # gathered
bound(12 << 20)
options = fastio.Options(lanes=1)
done = fastio.{save}({{"a": array}}, path, options=options)
if {save!r} == "start_save":
    done.result()
"""
    _assert_named(testbed.run_python(_BOUND + code, big), str(big), "bytes")
    assert len(fastio.load(big)["a"]) == _BYTES  # the old file is whole


def test_bytes_of_tensors_name_their_size(tmp_path: Path) -> None:
    code = """
array = np.zeros(64 << 20, np.uint8)
bound(32 << 20)
fastio.numpy.save({"a": array})
"""
    _assert_named(testbed.run_python(_BOUND + code, tmp_path), f"{64 << 20}"[:4], "bytes")


def test_seal_names_its_source(tmp_path: Path) -> None:
    path = tmp_path / "plain"
    fastio.save({"a": np.zeros(_BYTES, np.uint8)}, path, checksums=False)
    code = "bound(4 << 20)\nfastio.seal(path)\n"
    _assert_named(testbed.run_python(_BOUND + code, path), str(path), "bytes")


def test_a_store_names_itself(tmp_path: Path) -> None:
    code = """
array = np.zeros((64 << 20) + 2, np.uint8)[1::2]
store = fastio.Store.create([path / "root"], replicas=1)
bound(12 << 20)
store.save({"a": array}, options=fastio.Options(lanes=1))
"""
    _assert_named(testbed.run_python(_BOUND + code, tmp_path), str(tmp_path / "root"), "bytes")
