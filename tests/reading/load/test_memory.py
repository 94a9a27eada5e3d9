"""The cost of hostile files, the peak memory of a load, and the time when tensors free memory."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fastio
import testbed
from samples import (
    CHUNK_BYTES,
    MODEL,
    bytes_of,
    expected_bytes,
    same_bytes,
    write,
    write_even,
    write_model,
)

_MIB = 1 << 20
_HOSTILE_BYTES_MAX = 8 * _MIB
_OVERHEAD_BYTES_MAX = 64 * _MIB
_LARGE_BYTES = 256_000_000

# The lines of /proc/self/status in bytes; `reset_peak` resets VmHWM to the present size.
_STATUS = """
import ctypes, gc, json, os, sys

def status(field):
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

def reset_peak():
    gc.collect()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")

import fastio
"""


def _length(nbytes: int) -> bytes:
    return nbytes.to_bytes(8, "little")


def _with_header(header: str) -> bytes:
    return _length(len(header)) + header.encode()


def _with_tensor(shape: str, offsets: str, dtype: str = "F32") -> bytes:
    return _with_header(f'{{"t":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}')


_HOSTILE = {
    "header of 2**63": _length(2**63) + b"{}".ljust(92),
    "header of 2**64 - 1": _length(2**64 - 1) + b"{}".ljust(92),
    "header of 100,000,001": _length(100_000_001) + b"{}".ljust(92),
    "header of 100,000,000": _length(100_000_000) + b"{}".ljust(92),
    "header of 99 of 92 bytes": _length(99) + b"{}".ljust(92),
    "2**56 values": _with_tensor("[72057594037927936]", "[0,288230376151711744]"),
    "2**62 values": _with_tensor("[2147483648,2147483648]", "[0,0]"),
    "2**64 values": _with_tensor("[4294967296,4294967296]", "[0,0]"),
    "a shape of 40 digits": _with_tensor("[" + "9" * 40 + "]", "[0,4]"),
    "offsets of 18 digits": _with_tensor("[1]", "[0," + "9" * 18 + "]"),
    "offsets of 40 digits": _with_tensor("[1]", "[0," + "9" * 40 + "]"),
    "1e999999": _with_tensor("[1]", "[0,1e999999]"),
    "nested arrays": _with_header("[" * 92),
    "nested objects": _with_header('{"a":' * 18),
    "nested shape": _with_tensor("[" * 40, "[0,4]"),
    "4096 empty dimensions of a large one": _with_tensor("[0,9223372036854775807]", "[0,0]"),
}


def test_hostile_files_are_refused_without_taking_memory(tmp_path: Path) -> None:
    for number, content in enumerate(_HOSTILE.values()):
        assert len(content) <= 128
        (tmp_path / str(number)).write_bytes(content)
    code = (
        _STATUS
        + """
reset_peak()
before = status("VmRSS")
refused = []
for path in sys.argv[1:]:
    try:
        fastio.load(path)
    except fastio.FormatError as error:
        refused.append(error.path)
print(json.dumps([refused, status("VmHWM") - before]))
"""
    )
    paths = [str(tmp_path / str(number)) for number in range(len(_HOSTILE))]
    refused, grown_bytes = json.loads(testbed.run_python(code, *paths).check().stdout)
    accepted = [name for name, path in zip(_HOSTILE, paths, strict=True) if path not in refused]
    assert accepted == []
    # All of them together stay below the limit of one.
    assert grown_bytes <= _HOSTILE_BYTES_MAX


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed file of 16 tensors, 256 MB in all."""
    path = tmp_path_factory.mktemp("large") / "model"
    return fastio.seal(write_even(path, 16, _LARGE_BYTES // 16))


_LOAD_LARGE = (
    _STATUS
    + """
framework = sys.argv[3]
if framework == "torch":
    import torch
options = fastio.Options(**json.loads(sys.argv[2]))
reset_peak()
anonymous, resident = status("RssAnon"), status("VmRSS")
report = fastio.Report()
tensors = fastio.load(sys.argv[1], framework=framework, options=options, report=report)
print(json.dumps({
    "peak": status("VmHWM") - resident,
    "anonymous": status("RssAnon") - anonymous,
    "engine": report.engine,
    "cache": report.cache,
    "verified": report.chunks_verified,
}))
"""
)


def _load_large(path: Path, framework: Any = "numpy", **options: Any) -> Any:
    result = testbed.run_python(_LOAD_LARGE, path, json.dumps(options), framework)
    return json.loads(result.check().stdout)


@pytest.mark.parametrize(
    ("engine", "cache", "framework"),
    [
        ("uring", "bypass", "numpy"),
        ("pread", "bypass", "numpy"),
        ("uring", "keep", "numpy"),
        ("uring", "bypass", "torch"),
    ],
)
def test_the_peak_of_a_cold_load_is_little_above_the_tensors(
    large: Path, engine: str, cache: str, framework: Any
) -> None:
    testbed.evict(large)
    said = _load_large(large, framework, engine=engine, cache=cache, mapping="never")
    assert (said["cache"], said["engine"]) == ("cold", engine)
    assert said["verified"] > 0
    assert _LARGE_BYTES * 0.9 < said["anonymous"] <= _LARGE_BYTES + _OVERHEAD_BYTES_MAX
    assert said["peak"] <= _LARGE_BYTES + _OVERHEAD_BYTES_MAX


def test_a_cold_file_that_is_mapped_takes_no_memory_of_its_own(large: Path) -> None:
    testbed.evict(large)
    said = _load_large(large, mapping="always")
    assert (said["cache"], said["engine"]) == ("cold", "mmap")
    assert said["verified"] > 0
    assert said["anonymous"] <= _OVERHEAD_BYTES_MAX
    assert said["peak"] <= _LARGE_BYTES + _OVERHEAD_BYTES_MAX


def test_a_warm_file_that_is_mapped_takes_no_memory_of_its_own(large: Path) -> None:
    with testbed.kept_warm(large):
        said = _load_large(large)
    assert said["engine"] == "mmap"
    assert said["verified"] > 0
    assert said["anonymous"] <= _OVERHEAD_BYTES_MAX


def test_a_warm_file_that_is_copied_takes_its_size(large: Path) -> None:
    with testbed.kept_warm(large):
        said = _load_large(large, mapping="never")
    assert said["cache"] == "warm"
    assert said["peak"] <= _LARGE_BYTES + _OVERHEAD_BYTES_MAX


def test_a_file_that_breaks_alignments_takes_little_more_than_its_size(tmp_path: Path) -> None:
    # Each tensor is copied to an aligned place, and its source is freed at once.
    count = 64
    path = write(
        tmp_path / "model",
        {f"t{i}": ("F32", (_MIB // 2,)) for i in range(count)},
        start_modulo_8=1,
    )
    testbed.evict(path)
    said = _load_large(path)
    assert said["cache"] == "cold"
    assert said["peak"] <= count * 2 * _MIB + _OVERHEAD_BYTES_MAX
    assert said["anonymous"] <= count * 2 * _MIB + _OVERHEAD_BYTES_MAX


@pytest.mark.parametrize("engine", ["uring", "pread"])
@pytest.mark.parametrize("temperature", ["cold", "warm"])
@pytest.mark.parametrize("mapping", ["auto", "never"])
def test_a_load_beyond_the_limit_is_refused_before_it_reads(
    engine: Any, temperature: str, mapping: Any, tmp_path: Path
) -> None:
    path = fastio.seal(write_even(tmp_path / "model", 8, CHUNK_BYTES))
    expected = expected_bytes(path)
    if temperature == "cold":
        testbed.evict(path)
    limit = 8 * CHUNK_BYTES - 1
    options = fastio.Options(engine=engine, cache="keep", mapping=mapping, memory_limit_bytes=limit)
    report = fastio.Report()
    with pytest.raises(fastio.MemoryLimitError) as raised:
        fastio.load(path, options=options, report=report)
    error = raised.value
    assert (error.asked_bytes, error.limit_bytes, error.held_bytes) == (limit + 1, limit, 0)
    assert (report.bytes_read, report.bytes_mapped, report.chunks_verified) == (0, 0, 0)
    if temperature == "cold":  # only the header's readahead
        assert testbed.resident_bytes(path) <= 512 << 10

    enough = fastio.Options(
        engine=engine, cache="keep", mapping=mapping, memory_limit_bytes=limit + 1
    )
    assert same_bytes(fastio.load(path, options=enough), expected)


_SCARCE = (
    _STATUS
    + """
import resource
import fastio.frameworks.numpy

action, path, more_bytes = sys.argv[1:]
limit = status("VmSize") + int(more_bytes)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    getattr(fastio, action)(path)
except MemoryError as error:
    print(str(error))
"""
)


def test_a_failed_allocation_is_an_error_that_names_the_source(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(_with_tensor(f"[{1 << 30}]", f"[0,{1 << 30}]", "U8"))
    os.truncate(path, path.stat().st_size + (1 << 30))
    said = testbed.run_python(_SCARCE, "load", path, str(256 * _MIB)).check().stdout
    assert str(path) in said
    assert str(1 << 30) in said


def test_a_file_that_is_sealed_without_memory_stays_as_it_is(tmp_path: Path) -> None:
    path = write_even(tmp_path / "model", 1, 64 * _MIB)
    before = path.read_bytes()
    result = testbed.run_python(_SCARCE, "seal", path, str(4 * _MIB)).check()
    assert result.stdout  # a MemoryError, and no subclass
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def test_a_part_counts_against_the_limit_as_a_part(tmp_path: Path) -> None:
    path = fastio.seal(write_even(tmp_path / "model", 8, CHUNK_BYTES))
    options = fastio.Options(mapping="never", memory_limit_bytes=2 * CHUNK_BYTES)
    tensors = fastio.load(path, names=["t1", "t6"], options=options)
    whole = expected_bytes(path)
    assert same_bytes(tensors, {name: whole[name] for name in ("t1", "t6")})
    with pytest.raises(fastio.MemoryLimitError):
        fastio.load(path, names=["t1", "t3", "t6"], options=options)


@pytest.mark.parametrize("mapping", ["auto", "never"])
@pytest.mark.parametrize("start", [0, 1], ids=["aligned", "misaligned"])
def test_each_torch_tensor_has_a_storage_of_exactly_its_bytes(
    mapping: Any, start: int, tmp_path: Path
) -> None:
    path = write(tmp_path / "model", MODEL, start_modulo_8=start)
    tensors = fastio.load(path, framework="torch", options=fastio.Options(mapping=mapping))
    for tensor in tensors.values():
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        assert tensor.storage_offset() == 0
    # A saved slice takes its own size only.
    small = tmp_path / "saved"
    torch.save(tensors["norm.weight"], small)
    assert small.stat().st_size < 4096 + 4096


_DROP = (
    _STATUS
    + """
framework = sys.argv[3]
if framework == "torch":
    import torch
options = fastio.Options(**json.loads(sys.argv[2]))

def first_bytes(tensor):
    data = tensor.data_ptr() if framework == "torch" else tensor.ctypes.data
    return ctypes.string_at(data, 64).hex()

gc.collect()
grown = []
before = status("RssAnon")
tensors = fastio.load(sys.argv[1], framework=framework, options=options)
for tensor in tensors.values():
    tensor += 1  # a mapped page becomes one of its own only when it is written
grown.append(status("RssAnon") - before)
kept = tensors["t3"]
read = first_bytes(kept)
del tensors, tensor
gc.collect()
grown.append(status("RssAnon") - before)
assert first_bytes(kept) == read
del kept
gc.collect()
grown.append(status("RssAnon") - before)
print(json.dumps(grown))
"""
)


@pytest.mark.parametrize("huge_pages", ["on", "off"])
@pytest.mark.parametrize("mapping", ["auto", "never"])
@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_each_freed_tensor_frees_its_memory_and_the_last_one_all(
    framework: Any, mapping: str, huge_pages: str, tmp_path: Path
) -> None:
    each = 8 * _MIB
    path = fastio.seal(write_even(tmp_path / "model", 8, each))
    options = json.dumps({"mapping": mapping, "huge_pages": huge_pages})
    with testbed.kept_warm(path):
        result = testbed.run_python(_DROP, path, options, framework)
    all_bytes, one_bytes, none_bytes = json.loads(result.check().stdout)
    slack = 4 * _MIB  # the interpreter's own
    assert all_bytes >= 8 * each
    assert each <= one_bytes <= each + slack
    assert none_bytes <= slack


@pytest.mark.parametrize("mapping", ["auto", "never"])
@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_tensors_outlive_the_dict_and_the_file(
    framework: Any, mapping: Any, tmp_path: Path
) -> None:
    path = fastio.seal(write_model(tmp_path / "model"))
    expected = expected_bytes(path)
    options = fastio.Options(mapping=mapping)
    tensors = fastio.load(path, framework=framework, options=options)
    kept = [tensors["norm.weight"], tensors["head.weight"]]
    tensors.clear()
    path.unlink()
    again = np.zeros(64 * _MIB, np.uint8)  # freed memory is used again
    again += 1
    assert bytes_of(kept[0]) == expected["norm.weight"]
    assert bytes_of(kept[1]) == expected["head.weight"]


@pytest.mark.parametrize("mapping", ["auto", "never"])
@pytest.mark.parametrize("framework", ["numpy", "torch"])
@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "unsealed"])
def test_tensors_are_writable_and_share_no_memory(
    framework: Any, mapping: Any, sealed: bool, tmp_path: Path
) -> None:
    path = write_model(tmp_path / "model")
    if sealed:
        fastio.seal(path)
    before, expected = path.read_bytes(), expected_bytes(path)
    options = fastio.Options(mapping=mapping)
    report = fastio.Report()
    first = fastio.load(path, framework=framework, options=options, report=report)
    assert report.engine == ("mmap" if mapping == "auto" else report.engine)
    second = fastio.load(path, framework=framework, options=options)
    first["embed.weight"][:] = 0
    if framework == "numpy":
        assert all(array.flags.writeable for array in first.values())
    assert not any(bytes_of(first["embed.weight"]))
    # The write shows in no neighbour, no other load and not in the file.
    del first["embed.weight"]
    assert same_bytes(first, {name: data for name, data in expected.items() if name in first})
    assert same_bytes(second, expected)
    assert path.read_bytes() == before
