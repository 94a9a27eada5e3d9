"""One-in-a-million errors of disks on reads, injected into both engines; and a disk that fails."""

import errno
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fastio
import testbed
from fastio import _native
from samples import (
    CHUNK_BYTES,
    data_start,
    elsewhere,
    eventually,
    expected_bytes,
    loaded_bytes,
    native_threads,
    same_bytes,
    write_even,
    write_model,
)

_CHUNKS = 12  # of most tests' file, one tensor a chunk
Faults = Callable[..., None]


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    return fastio.seal(write_even(tmp_path / "model", _CHUNKS, CHUNK_BYTES))


def _one_by_one(engine: Any, cache: Any) -> fastio.Options:
    """Block n is read by completion n."""
    return fastio.Options(
        engine=engine,
        cache=cache,
        mapping="never",
        lanes=1,
        queue_depth=1,
        block_bytes=CHUNK_BYTES,
    )


def _many_at_once(engine: Any, cache: Any) -> fastio.Options:
    return fastio.Options(
        engine=engine,
        cache=cache,
        mapping="never",
        lanes=3,
        queue_depth=4,
        block_bytes=CHUNK_BYTES,
    )


@pytest.mark.parametrize("at", [0, 5, _CHUNKS - 1])
def test_an_error_names_the_file_and_the_place(
    sealed: Path, engine: Any, cache: Any, at: int, faults: Faults
) -> None:
    faults((at, "error", errno.EIO))
    with pytest.raises(fastio.ReadError) as raised:
        fastio.load(sealed, options=_one_by_one(engine, cache))
    assert raised.value.errno == errno.EIO
    assert raised.value.path == raised.value.filename == str(sealed)
    assert raised.value.offset == data_start(sealed) + at * CHUNK_BYTES


def test_the_first_of_many_errors_is_the_one_reported(
    sealed: Path, engine: Any, cache: Any, faults: Faults
) -> None:
    faults(*((at, "error", errno.EIO) for at in range(_CHUNKS)))
    with pytest.raises(fastio.ReadError) as raised:
        fastio.load(sealed, options=_many_at_once(engine, cache))
    assert raised.value.offset is not None
    assert (raised.value.offset - data_start(sealed)) % CHUNK_BYTES == 0
    # The next load is a new one.
    faults()
    assert same_bytes(fastio.load(sealed), expected_bytes(sealed))


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.EINTR], ids=["EAGAIN", "EINTR"])
def test_a_call_that_returns_eagain_is_tried_again(
    sealed: Path, engine: Any, cache: Any, code: int, faults: Faults
) -> None:
    faults(*((at, "error", code) for at in range(0, 3 * _CHUNKS, 2)))
    report = fastio.Report()
    tensors = fastio.load(sealed, options=_many_at_once(engine, cache), report=report)
    assert same_bytes(tensors, expected_bytes(sealed))
    assert report.chunks_verified == _CHUNKS


def test_a_disk_that_returns_eagain_for_ever_is_an_error(
    sealed: Path, engine: Any, cache: Any, faults: Faults
) -> None:
    faults(*((at, "error", errno.EAGAIN) for at in range(1, 1000)))
    with pytest.raises(fastio.ReadError, match="no progress") as raised:
        fastio.load(sealed, options=_one_by_one(engine, cache))
    assert raised.value.errno == errno.EAGAIN
    assert raised.value.offset == data_start(sealed) + CHUNK_BYTES


@pytest.mark.parametrize("nbytes", [1, 511, 4095, 4096, 4097, 600_000, CHUNK_BYTES - 1])
def test_a_short_read_is_resumed(
    sealed: Path, engine: Any, cache: Any, nbytes: int, faults: Faults
) -> None:
    # The seam overwrites the rest: a load that only assumed the read would return wrong bytes.
    faults((0, "short", nbytes), (4, "short", nbytes), (5, "short", nbytes))
    report = fastio.Report()
    tensors = fastio.load(sealed, options=_one_by_one(engine, cache), report=report)
    assert same_bytes(tensors, expected_bytes(sealed))
    assert report.chunks_verified == _CHUNKS


def test_a_short_read_is_resumed_without_verification(
    tmp_path: Path, engine: Any, cache: Any, faults: Faults
) -> None:
    path = write_model(tmp_path / "model")
    faults(*((at, "short", 5000 * at + 1) for at in range(20)))
    tensors = fastio.load(path, options=_many_at_once(engine, cache))
    assert same_bytes(tensors, expected_bytes(path))


def test_an_end_before_the_end_is_an_error_with_its_place(
    sealed: Path, engine: Any, cache: Any, faults: Faults
) -> None:
    faults((3, "short", 8192), (4, "zero", 0))
    with pytest.raises(fastio.ReadError, match="ends here") as raised:
        fastio.load(sealed, options=_one_by_one(engine, cache))
    assert raised.value.offset == data_start(sealed) + 3 * CHUNK_BYTES + 8192
    assert raised.value.path == str(sealed)


@pytest.mark.parametrize("at", [0, 7, _CHUNKS - 1])
def test_a_flipped_bit_is_reported_with_chunk_offset_and_tensor(
    sealed: Path, engine: Any, cache: Any, at: int, faults: Faults
) -> None:
    faults((at, "flip", 12_345))
    with pytest.raises(fastio.ChecksumError) as raised:
        fastio.load(sealed, options=_one_by_one(engine, cache))
    error = raised.value
    assert (error.path, error.chunk) == (str(sealed), at)
    assert (error.offset, error.nbytes) == (data_start(sealed) + at * CHUNK_BYTES, CHUNK_BYTES)
    assert error.tensors == (f"t{at}",)
    assert error.expected != error.found
    assert f"t{at}" in str(error)


def test_the_seam_flips_bits_of_unverified_bytes_too(
    sealed: Path, engine: Any, cache: Any, faults: Faults
) -> None:
    faults((7, "flip", 12_345))
    tensors = fastio.load(sealed, verify=False, options=_one_by_one(engine, cache))
    expected = expected_bytes(sealed)
    wrong = [name for name, data in loaded_bytes(tensors).items() if data != expected[name]]
    assert wrong == ["t7"]


def test_late_completions_are_waited_for(
    sealed: Path, engine: Any, cache: Any, faults: Faults
) -> None:
    faults((0, "late", 150), (4, "late", 20), (5, "late", 30))
    report = fastio.Report()
    tensors = fastio.load(sealed, options=_many_at_once(engine, cache), report=report)
    assert same_bytes(tensors, expected_bytes(sealed))
    assert report.seconds >= 0.15


def test_completions_out_of_order_are_each_put_in_their_place(
    sealed: Path, engine: Any, cache: Any, faults: Faults
) -> None:
    faults(*((at, "reorder", 0) for at in range(0, _CHUNKS, 2)), (3, "late", 20), (9, "late", 10))
    tensors = fastio.load(sealed, options=_many_at_once(engine, cache))
    assert same_bytes(tensors, expected_bytes(sealed))


def test_faults_of_all_kinds_at_once_are_survived(
    sealed: Path, engine: Any, cache: Any, faults: Faults
) -> None:
    kinds = [
        ("short", 70_001),
        ("error", errno.EINTR),
        ("reorder", 0),
        ("late", 5),
        ("error", errno.EAGAIN),
    ]
    faults(*((at, *kinds[at % len(kinds)]) for at in range(4 * _CHUNKS)))
    tensors = fastio.load(sealed, options=_many_at_once(engine, cache))
    assert same_bytes(tensors, expected_bytes(sealed))


class _CancelledError(Exception):
    pass


@pytest.fixture
def cancelling() -> Iterator[None]:
    """SIGUSR1 raises `_CancelledError`, as SIGINT raises KeyboardInterrupt."""

    def cancel(*_: object) -> None:
        raise _CancelledError

    before = signal.signal(signal.SIGUSR1, cancel)
    yield
    signal.signal(signal.SIGUSR1, before)


def _cancel_when_held(report: fastio.Report) -> None:
    # `tensors` is filled just before the reads start; from there on there is a load to cancel.
    assert eventually(lambda: report.tensors > 0)
    os.kill(os.getpid(), signal.SIGUSR1)


@pytest.mark.parametrize("ended_by", ["signal", "error"])
@pytest.mark.usefixtures("cancelling")
def test_memory_with_a_read_still_in_it_is_abandoned_until_the_read_returns(
    sealed: Path, engine: Any, cache: Any, faults: Faults, ended_by: str
) -> None:
    before = native_threads()
    script = [(0, "never", 0), (2, "never", 0)]
    if ended_by == "error":
        script.append((5, "error", errno.EIO))
    faults(*script)
    report = fastio.Report()
    options = _many_at_once(engine, cache)
    if ended_by == "error":
        with pytest.raises(fastio.ReadError):
            fastio.load(sealed, options=options, report=report)
    else:
        with (
            elsewhere(lambda: _cancel_when_held(report)) as canceller,
            pytest.raises(_CancelledError),
        ):
            fastio.load(sealed, options=options, report=report)
        assert canceller.error is None
    abandoned = _native.testing.abandoned_bytes()
    assert 0 < abandoned <= (_CHUNKS + 1) * CHUNK_BYTES
    # It counts against the next load's limit.
    limited = fastio.Options(
        mapping="never", memory_limit_bytes=_CHUNKS * CHUNK_BYTES + abandoned - 1
    )
    with pytest.raises(fastio.MemoryLimitError) as raised:
        fastio.load(sealed, options=limited)
    assert raised.value.held_bytes == abandoned

    _native.testing.release_held_completions()
    assert eventually(lambda: _native.testing.abandoned_bytes() == 0)
    assert eventually(lambda: native_threads() <= before)
    faults()
    assert same_bytes(fastio.load(sealed, options=limited), expected_bytes(sealed))


@pytest.mark.root
@pytest.mark.parametrize("is_sealed", [True, False], ids=["sealed", "unsealed"])
@pytest.mark.parametrize("failing", [0.0, 0.3, 0.95], ids=["start", "middle", "end"])
def test_a_failing_disk_gives_an_error_and_never_wrong_bytes(
    failing_mount: testbed.FailingMount, engine: Any, cache: Any, failing: float, is_sealed: bool
) -> None:
    path = write_even(failing_mount.path / "model", _CHUNKS, CHUNK_BYTES)
    if is_sealed:
        fastio.seal(path)
    expected, start = expected_bytes(path), data_start(path)
    # A page behind the start of the data, so that the header stays readable.
    broken = start + 4096 + int(failing * _CHUNKS * CHUNK_BYTES)
    broken -= broken % 4096
    failing_mount.fail_from(path, broken)

    options = fastio.Options(engine=engine, cache=cache, block_bytes=CHUNK_BYTES)
    with pytest.raises(fastio.ReadError) as raised:
        fastio.load(path, options=options)
    assert raised.value.errno == errno.EIO
    assert raised.value.path == str(path)
    assert raised.value.offset is not None
    assert raised.value.offset + CHUNK_BYTES + 4096 > broken

    # Tensors at least a readahead before the failure are whole.
    for i in range(_CHUNKS):
        if start + (i + 2) * CHUNK_BYTES <= broken:
            tensors = fastio.load(path, names=[f"t{i}"], options=options)
            assert same_bytes(tensors, {f"t{i}": expected[f"t{i}"]})


@pytest.mark.root
def test_a_disk_that_fails_under_the_header_gives_an_error(
    failing_mount: testbed.FailingMount, engine: Any
) -> None:
    path = write_even(failing_mount.path / "model", 1, CHUNK_BYTES)
    failing_mount.fail_from(path)
    with pytest.raises(fastio.ReadError) as raised:
        fastio.load(path, options=fastio.Options(engine=engine))
    assert (raised.value.errno, raised.value.offset) == (errno.EIO, 0)
    assert raised.value.path == str(path)
