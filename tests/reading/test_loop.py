"""A loop over the names reads ahead in the order of the file or of the names. In every order, each
tensor is right and independent of the others.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fastio
from fastio import _native
from samples import (
    CHUNK_BYTES,
    bytes_of,
    eventually,
    expected_bytes,
    native_threads,
    open_files,
    write,
    write_even,
)

_COUNT = 24  # tensors of the file, each a chunk and a bit
_NBYTES = CHUNK_BYTES + 40_000


def _options(engine: Any, **more: Any) -> fastio.Options:
    return fastio.Options(engine=engine, cache="bypass", mapping="never", **more)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fastio.seal(write_even(tmp_path_factory.mktemp("loop") / "model", _COUNT, _NBYTES))


@pytest.fixture(scope="module")
def expected(path: Path) -> dict[str, bytes]:
    return expected_bytes(path)


def _calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The native jobs that start."""
    started: list[str] = []

    def noted(kind: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def start(*args: Any, **kwargs: Any) -> Any:
            started.append(kind)
            return real(*args, **kwargs)

        return start

    for kind in ("load", "Stream"):
        monkeypatch.setattr(_native, kind, noted(kind, getattr(_native, kind)))
    return started


@pytest.mark.parametrize("framework", ["numpy", "torch"])
@pytest.mark.parametrize("by", ["tensor", "view"])
@pytest.mark.parametrize("order", ["file", "names"])
def test_a_loop_is_read_ahead_and_reads_each_byte_about_once(
    path: Path,
    expected: dict[str, bytes],
    engine: Any,
    by: str,
    order: str,
    framework: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started = _calls(monkeypatch)
    with fastio.open(path, framework=framework, options=_options(engine)) as reader:
        names = reader.keys() if order == "file" else sorted(reader.keys())
        assert (names == reader.keys()) == (order == "file")
        for name in names:
            tensor = reader.tensor(name) if by == "tensor" else reader[name][...]
            assert bytes_of(tensor) == expected[name]
        report = reader.report
    # The first read is alone; the second one reveals the loop.
    assert started == ["load", "Stream"]
    assert report.bytes_read <= sum(map(len, expected.values())) + 4 * CHUNK_BYTES
    assert report.engine == engine


def _orders() -> dict[str, list[str]]:
    names = [f"t{i}" for i in range(_COUNT)]
    shuffled = names[:]
    random.Random(5).shuffle(shuffled)
    return {
        "twice each": [name for name in names for _ in range(2)],
        "backwards": names[::-1],
        "shuffled": shuffled,
        "every other one": names[::2] + names[1::2],
        "half-way, then again": names[:12] + names,
        "there and back": names[:12] + names[:12][::-1],
        "names half-way, then the file": sorted(names)[:12] + names,
        "by twos, turned": [name for i in range(0, _COUNT, 2) for name in (f"t{i + 1}", f"t{i}")],
        "with one that is elsewhere": [
            name for i in range(12) for name in (f"t{i}", f"t{23 - i // 4}")
        ],
    }


@pytest.mark.parametrize("limit", [None, 5 * CHUNK_BYTES])
@pytest.mark.parametrize("order", _orders().values(), ids=_orders().keys())
def test_in_any_order_tensors_are_right_and_share_no_memory(
    path: Path, expected: dict[str, bytes], engine: Any, order: list[str], limit: int | None
) -> None:
    options = _options(engine, memory_limit_bytes=limit)
    with fastio.open(path, options=options) as reader:
        kept = []
        for name in order:
            tensor = reader.tensor(name)
            assert bytes_of(tensor) == expected[name], name
            kept.append((name, tensor))
        for _, tensor in kept[::2]:
            tensor[...] = 0
        assert all(bytes_of(tensor) == expected[name] for name, tensor in kept[1::2])
        for name in dict.fromkeys(order[::5]):
            assert bytes_of(reader.tensor(name)) == expected[name]


def test_a_loop_left_half_way_frees_its_reads(path: Path, engine: Any) -> None:
    files, threads = open_files(), native_threads()
    reader = fastio.open(path, options=_options(engine))
    for name in reader.keys()[:5]:
        reader.tensor(name)
    reader.close()
    assert eventually(lambda: open_files() <= files)
    assert eventually(lambda: native_threads() <= threads)
    assert eventually(lambda: _native.testing.abandoned_bytes() == 0)
    # The reader's counters stay readable.
    assert reader.report.tensors == _COUNT
    assert reader.report.chunks_verified >= 5


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed file of 400 tensors of 10,000 bytes: four chunks, some tensors in two of them."""
    path = tmp_path_factory.mktemp("small") / "model"
    return fastio.seal(write(path, {f"t{i}": ("U8", (10_000,)) for i in range(400)}))


@pytest.mark.parametrize("order", ["file", "shuffled", "backwards"])
def test_a_chunk_is_not_read_again_for_each_of_its_small_tensors(
    small: Path, engine: Any, order: str
) -> None:
    expected = expected_bytes(small)
    with fastio.open(small, options=_options(engine)) as reader:
        names = reader.keys()
        if order == "shuffled":
            random.Random(1).shuffle(names)
        kept = {
            name: reader.tensor(name) for name in (names[::-1] if order == "backwards" else names)
        }
        report = reader.report
    # Four chunks, and the three pairs of them that a tensor lies across.
    assert report.bytes_read <= (4 + 3 * 2) * CHUNK_BYTES
    assert report.chunks_verified <= 4 + 3 * 2
    assert all(bytes_of(tensor) == expected[name] for name, tensor in kept.items())
    for tensor in list(kept.values())[::2]:
        tensor[...] = 255
    assert all(bytes_of(tensor) == expected[name] for name, tensor in list(kept.items())[1::2])


def test_writing_to_a_small_tensor_changes_no_later_read(small: Path, engine: Any) -> None:
    expected = expected_bytes(small)
    with fastio.open(small, options=_options(engine)) as reader:
        for _ in range(3):
            tensor = reader.tensor("t7")
            assert bytes_of(tensor) == expected["t7"]
            tensor[...] = 0
        assert bytes_of(reader.tensor("t8")) == expected["t8"]


@pytest.mark.parametrize("order", ["file", "names"])
def test_a_loop_over_many_tiny_tensors_does_not_look_at_all_of_them_each_time(
    tmp_path: Path, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = 0
    real = fastio.reading.ahead.Loop._is_worth_it

    def is_worth_it(self: Any, rest: Any) -> bool:
        nonlocal looked
        looked += len(rest)
        return real(self, rest)

    monkeypatch.setattr(fastio.reading.ahead.Loop, "_is_worth_it", is_worth_it)
    path = fastio.seal(write(tmp_path / "model", {f"t{i}": ("U8", (4,)) for i in range(2000)}))
    with fastio.open(path, options=fastio.Options(mapping="never")) as reader:
        names = reader.keys() if order == "file" else sorted(reader.keys())
        for name in names:
            reader.tensor(name)
    assert looked <= 3 * 2000


def test_tensors_without_bytes_and_files_without_checksums_are_looped_over_too(
    tmp_path: Path, engine: Any
) -> None:
    spec = {f"t{i}": ("F32", (0, i) if i % 3 == 0 else (300_000,)) for i in range(12)}
    path = write(tmp_path / "model", spec, start_modulo_8=3)
    expected = expected_bytes(path)
    with fastio.open(path, options=_options(engine)) as reader:
        tensors = {name: reader.tensor(name) for name in reader}
    assert {name: bytes_of(tensor) for name, tensor in tensors.items()} == expected
    assert all(tensor.shape == spec[name][1] for name, tensor in tensors.items())
    assert all(tensor.flags.aligned for tensor in tensors.values())


def test_a_loop_goes_on_from_file_to_file(tmp_path: Path, engine: Any) -> None:
    paths = [
        write(tmp_path / f"part{i}", {f"{i}.{j}": ("U8", (700_000,)) for j in range(6)}, seed=i)
        for i in range(3)
    ]
    fastio.seal(paths[1])
    expected = expected_bytes(*paths)
    with fastio.open(paths, options=_options(engine)) as reader:
        for name in reader:
            assert bytes_of(reader.tensor(name)) == expected[name]
        report = reader.report
    assert (report.files, report.tensors) == (3, 18)
    assert report.unverified == (str(paths[0]), str(paths[2]))
    assert report.bytes_read <= sum(map(len, expected.values())) + 4 * CHUNK_BYTES
