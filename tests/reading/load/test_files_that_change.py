"""Errors about damaged or truncated files name the place; a replaced file is read as it was."""

import errno
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fastio
import testbed
from fastio import _native
from fastio.formats import huggingface
from samples import (
    CHUNK_BYTES,
    Elsewhere,
    chunk_count,
    data_start,
    elsewhere,
    eventually,
    expected_bytes,
    flip,
    same_bytes,
    write,
    write_even,
    write_model,
)

_CHUNKS = 8
_ENGINES = ["uring", "pread"]
_MAPPINGS: list[Any] = ["auto", "never"]


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    """A sealed file of tensors that share chunks."""
    return fastio.seal(write_model(tmp_path / "model"))


@pytest.fixture
def let_go() -> Iterator[Callable[[Elsewhere], bool]]:
    """Hold a load at its first completion; a call releases it and returns whether it had ended."""
    _native.testing.set_completion_faults([(0, "never", 0)])

    def release(loading: Elsewhere) -> bool:
        _native.testing.release_held_completions()
        return loading.done

    yield release
    _native.testing.set_completion_faults([])
    _native.testing.release_held_completions()


def _one_by_one(engine: Any, cache: Any) -> fastio.Options:
    return fastio.Options(
        engine=engine,
        cache=cache,
        mapping="never",
        lanes=1,
        queue_depth=1,
        block_bytes=CHUNK_BYTES,
    )


def _positions(path: Path) -> list[int]:
    """The first and the last byte of each chunk, and some between."""
    start, nbytes = data_start(path), path.stat().st_size
    ends = range(start + CHUNK_BYTES, nbytes, CHUNK_BYTES)
    rng = random.Random(1)
    return sorted(
        {start, nbytes - 1, *ends, *(end - 1 for end in ends)}
        | {rng.randrange(start, nbytes) for _ in range(12)}
    )


def _tensors_within(path: Path, begin: int, end: int) -> tuple[str, ...]:
    """From the safetensors package's sizes, in the order of the file."""
    offset, found = data_start(path), []
    for name in fastio.load(path, verify=False):
        nbytes = len(expected_bytes(path)[name])
        if offset < end and offset + nbytes > begin and nbytes:
            found.append(name)
        offset += nbytes
    return tuple(found)


@pytest.mark.parametrize("how", ["mapped", "uring", "pread"])
def test_one_flipped_bit_in_the_data_is_reported_with_chunk_offset_and_tensors(
    sealed: Path, how: Any
) -> None:
    start, nbytes = data_start(sealed), sealed.stat().st_size
    options = fastio.Options() if how == "mapped" else fastio.Options(engine=how, mapping="never")
    expected_tensors = [
        _tensors_within(sealed, start + i * CHUNK_BYTES, start + (i + 1) * CHUNK_BYTES)
        for i in range(chunk_count(sealed))
    ]
    assert max(map(len, expected_tensors)) >= 3
    for position in _positions(sealed):
        flip(sealed, position, position % 8)
        with pytest.raises(fastio.ChecksumError) as raised:
            fastio.load(sealed, options=options)
        flip(sealed, position, position % 8)
        error, chunk = raised.value, (position - start) // CHUNK_BYTES
        assert error.path == str(sealed)
        assert error.chunk == chunk
        assert error.offset == start + chunk * CHUNK_BYTES
        assert error.nbytes == min(CHUNK_BYTES, nbytes - error.offset)
        assert error.tensors == expected_tensors[chunk]
        assert len(error.expected) == len(error.found) == 16
    assert same_bytes(fastio.load(sealed, options=options), expected_bytes(sealed))


@pytest.mark.parametrize("verify", [True, "require"])
def test_one_flipped_bit_in_the_header_is_refused(tmp_path: Path, verify: Any) -> None:
    path = fastio.seal(write_even(tmp_path / "model", 3, 1000))
    rng = random.Random(2)
    for position in range(0, data_start(path), 3):
        bit = rng.randrange(8)
        flip(path, position, bit)
        with pytest.raises(fastio.FormatError) as raised:
            fastio.load(path, verify=verify)
        assert raised.value.path == str(path)
        flip(path, position, bit)
    fastio.load(path, verify="require")


def test_damage_that_no_tensor_asked_for_has_does_not_matter(tmp_path: Path) -> None:
    path = fastio.seal(write_even(tmp_path / "model", _CHUNKS, CHUNK_BYTES))
    expected = expected_bytes(path)
    flip(path, data_start(path) + 3 * CHUNK_BYTES)
    names = ["t0", "t2", "t4", "t7"]
    for mapping in _MAPPINGS:
        options = fastio.Options(mapping=mapping)
        tensors = fastio.load(path, names=names, options=options)
        assert same_bytes(tensors, {name: expected[name] for name in names})
        with pytest.raises(fastio.ChecksumError):
            fastio.load(path, names=["t3"], options=options)


def test_without_verification_damage_in_the_data_is_loaded_as_it_is(sealed: Path) -> None:
    flip(sealed, data_start(sealed) + 1_234_567)
    report = fastio.Report()
    tensors = fastio.load(sealed, verify=False, report=report)
    assert same_bytes(tensors, expected_bytes(sealed))
    assert report.unverified == (str(sealed),)


def test_a_file_without_checksums_is_refused_where_they_are_required(tmp_path: Path) -> None:
    path = write_even(tmp_path / "model", 2, 1000)
    with pytest.raises(fastio.FormatError, match="carries no checksums") as raised:
        fastio.load(path, verify="require")
    assert raised.value.path == str(path)
    assert same_bytes(fastio.load(fastio.seal(path), verify="require"), expected_bytes(path))


def test_one_file_of_many_without_checksums_is_named(tmp_path: Path) -> None:
    sealed = fastio.seal(write_even(tmp_path / "sealed", 1, 1000))
    plain = write(tmp_path / "plain", {"u0": ("U8", (1000,))})
    with pytest.raises(fastio.FormatError, match="carries no checksums") as raised:
        fastio.load([sealed, plain], verify="require")
    assert raised.value.path == str(plain)


@pytest.mark.parametrize("is_sealed", [True, False], ids=["sealed", "unsealed"])
@pytest.mark.parametrize("cache", ["bypass", "keep"])
@pytest.mark.parametrize("engine", _ENGINES)
@pytest.mark.parametrize("left", [0.0, 0.5, 0.500001, 0.9999], ids=lambda left: f"{left:%} left")
def test_a_file_that_shrinks_while_it_is_read_is_an_error_with_its_new_end(
    left: float,
    engine: Any,
    cache: Any,
    is_sealed: bool,
    tmp_path: Path,
    let_go: Callable[[Elsewhere], bool],
) -> None:
    path = write_even(tmp_path / "model", _CHUNKS, CHUNK_BYTES)
    if is_sealed:
        fastio.seal(path)
    new_end = int(left * path.stat().st_size)
    report = fastio.Report()
    options = _one_by_one(engine, cache)
    with elsewhere(lambda: fastio.load(path, options=options, report=report)) as loading:
        # Filled after the file was opened and its header read, before the first block arrives.
        assert eventually(lambda: report.tensors > 0)
        os.truncate(path, new_end)
        # Repeated: a completion that is not held yet would not be released.
        assert eventually(lambda: let_go(loading))
    error = loading.error
    assert isinstance(error, fastio.ReadError)
    assert error.errno == errno.ENODATA
    assert error.path == str(path)
    assert error.offset == new_end
    assert "ends here" in str(error)


def test_a_file_that_shrinks_on_a_slow_disk_is_an_error(slow_mount: testbed.SlowMount) -> None:
    source = write_even(slow_mount.source / "model", _CHUNKS, CHUNK_BYTES)
    path = slow_mount.path / "model"
    report = fastio.Report()
    options = fastio.Options(mapping="never", lanes=1, queue_depth=1, block_bytes=CHUNK_BYTES)

    def load() -> Any:
        return fastio.load(path, options=options, report=report)

    slow_mount.delay(0.05)
    with elsewhere(load) as loading:
        assert eventually(lambda: report.tensors > 0)
        os.truncate(source, 3 * CHUNK_BYTES)
        slow_mount.release()
    assert isinstance(loading.error, fastio.ReadError)
    assert loading.error.path == str(path)


@pytest.mark.parametrize("engine", _ENGINES)
@pytest.mark.parametrize("cache", ["bypass", "keep"])
def test_a_file_that_is_replaced_while_it_is_read_stays_the_old_one(
    engine: Any, cache: Any, tmp_path: Path, let_go: Callable[[Elsewhere], bool]
) -> None:
    path = fastio.seal(write_even(tmp_path / "model", _CHUNKS, CHUNK_BYTES, seed=1))
    other = fastio.seal(write_even(tmp_path / "other", _CHUNKS, CHUNK_BYTES, seed=2))
    expected = expected_bytes(path)
    report = fastio.Report()
    options = _one_by_one(engine, cache)
    with elsewhere(lambda: fastio.load(path, options=options, report=report)) as loading:
        assert eventually(lambda: report.tensors > 0)
        other.replace(path)
        assert eventually(lambda: let_go(loading))
    assert loading.error is None
    assert same_bytes(loading.result, expected)


def _after_the_header(monkeypatch: pytest.MonkeyPatch, change: Callable[[], object]) -> None:
    """Make a change between the header's read and the first look at the data."""
    locate = huggingface.locate

    def locate_and_change(source: Any, names: Any) -> Any:
        catalog = locate(source, names)
        change()
        return catalog

    monkeypatch.setattr(huggingface, "locate", locate_and_change)


@pytest.mark.parametrize("what", ["replaced", "removed"])
@pytest.mark.parametrize("engine", _ENGINES)
@pytest.mark.parametrize("cache", ["auto", "bypass", "keep"])
def test_a_file_removed_after_its_header_was_read_is_still_read(
    what: str, engine: Any, cache: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_even(tmp_path / "model", _CHUNKS, CHUNK_BYTES, seed=1)
    other = write_even(tmp_path / "other", _CHUNKS, CHUNK_BYTES, seed=2)
    expected = expected_bytes(path)
    testbed.evict(path)
    _after_the_header(
        monkeypatch, (lambda: other.replace(path)) if what == "replaced" else path.unlink
    )
    options = fastio.Options(engine=engine, cache=cache)
    assert same_bytes(fastio.load(path, options=options), expected)


@pytest.mark.parametrize("mapping", _MAPPINGS)
def test_a_file_overwritten_after_its_header_was_read_fails_its_checksums(
    mapping: Any, sealed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _after_the_header(monkeypatch, lambda: flip(sealed, data_start(sealed) + 5 * CHUNK_BYTES))
    with pytest.raises(fastio.ChecksumError) as raised:
        fastio.load(sealed, options=fastio.Options(mapping=mapping))
    assert raised.value.chunk == 5


@pytest.mark.parametrize("mapping", _MAPPINGS)
@pytest.mark.parametrize("left", [0, 2_500_000])
def test_a_file_that_shrinks_after_its_header_was_read_is_an_error_and_no_signal(
    mapping: Any, left: int, sealed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _after_the_header(monkeypatch, lambda: os.truncate(sealed, left))
    with pytest.raises(fastio.ReadError) as raised:
        fastio.load(sealed, options=fastio.Options(mapping=mapping))
    assert raised.value.path == str(sealed)
