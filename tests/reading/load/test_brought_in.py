"""A cold file that the page cache is to keep is brought in and mapped; promises of reads hold."""

import errno
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import fastio
import testbed
from fastio.formats import huggingface
from fastio.reading import located
from samples import (
    CHUNK_BYTES,
    chunk_count,
    data_start,
    expected_bytes,
    flip,
    same_bytes,
    write_even,
    write_model,
)

_CHUNKS = 12
_WAYS: list[Any] = [("auto", "keep"), ("always", "keep"), ("always", "auto")]


@pytest.fixture
def cold(tmp_path: Path) -> Path:
    """A sealed file that is not in the page cache."""
    path = fastio.seal(write_model(tmp_path / "model"))
    testbed.evict(path)
    return path


def _load(path: Path, **options: Any) -> tuple[dict[str, Any], fastio.Report]:
    report = fastio.Report()
    tensors = fastio.load(path, options=fastio.Options(**options), report=report)
    return tensors, report


@pytest.mark.parametrize(("mapping", "cache"), _WAYS)
@pytest.mark.parametrize("is_sealed", [True, False], ids=["sealed", "unsealed"])
def test_the_report_says_that_a_cold_file_was_brought_in_and_mapped(
    tmp_path: Path, mapping: str, cache: str, is_sealed: bool
) -> None:
    path = write_model(tmp_path / "model")
    if is_sealed:
        fastio.seal(path)
    testbed.evict(path)
    tensors, report = _load(path, mapping=mapping, cache=cache)
    assert same_bytes(tensors, expected_bytes(path))
    assert (report.engine, report.cache) == ("mmap", "cold")
    assert "brought in" in report.engine_reason
    assert "brought in and mapped" in report.cache_reason
    assert report.bytes_mapped >= report.nbytes
    assert report.bytes_read == 0
    assert report.chunks_verified == (chunk_count(path) if is_sealed else 0)
    assert report.lanes >= 1
    assert report.fallbacks == ()


def test_tensors_of_a_mapping_are_the_callers_alone(cold: Path) -> None:
    expected = expected_bytes(cold)
    first, _ = _load(cold, cache="keep")
    second, _ = _load(cold, cache="keep")
    for tensor in first.values():
        tensor[...] = 0
    assert same_bytes(second, expected)
    assert expected_bytes(cold) == expected


def test_ranks_of_one_host_map_a_cold_file(cold: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    tensors, report = _load(cold)
    assert same_bytes(tensors, expected_bytes(cold))
    assert report.engine == "mmap"
    assert "ranks" in report.cache_reason


def test_mapping_never_copies(cold: Path) -> None:
    tensors, report = _load(cold, mapping="never", cache="keep")
    assert same_bytes(tensors, expected_bytes(cold))
    assert report.bytes_mapped == 0
    assert report.bytes_buffered == report.nbytes


def test_a_load_past_the_page_cache_is_never_mapped(cold: Path) -> None:
    _, report = _load(cold, mapping="always", cache="bypass")
    assert report.bytes_direct == report.nbytes


def test_memory_has_to_have_room_for_the_file_twice(
    cold: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbytes = sum(map(len, expected_bytes(cold).values()))
    testbed.evict(cold)
    monkeypatch.setattr(located, "available_bytes", lambda: 2 * nbytes - 1)
    tensors, report = _load(cold, cache="keep")
    assert report.bytes_mapped == 0
    assert report.bytes_buffered == report.nbytes
    assert "memory has no room" in report.cache_reason
    assert same_bytes(tensors, expected_bytes(cold))
    testbed.evict(cold)
    assert _load(cold, cache="keep", mapping="always")[1].engine == "mmap"
    testbed.evict(cold)
    monkeypatch.setattr(located, "available_bytes", lambda: 2 * nbytes)
    assert _load(cold, cache="keep")[1].engine == "mmap"


def test_memory_that_nobody_tells_of_has_no_room(
    cold: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(located, "available_bytes", lambda: None)
    assert _load(cold, cache="keep")[1].bytes_mapped == 0


def test_the_memory_limit_is_that_of_the_tensors(cold: Path) -> None:
    nbytes = sum(map(len, expected_bytes(cold).values()))
    testbed.evict(cold)
    with pytest.raises(fastio.MemoryLimitError) as raised:
        _load(cold, cache="keep", memory_limit_bytes=nbytes - 1)
    assert raised.value.asked_bytes == nbytes
    assert _load(cold, cache="keep", memory_limit_bytes=nbytes)[1].engine == "mmap"


@pytest.mark.parametrize("chunk", [0, 2])
def test_damage_is_told_as_by_other_reads(cold: Path, chunk: int) -> None:
    flip(cold, data_start(cold) + chunk * CHUNK_BYTES + 77)
    errors = []
    for mapping in ("auto", "never"):
        testbed.evict(cold)
        with pytest.raises(fastio.ChecksumError) as raised:
            _load(cold, mapping=mapping, cache="keep")
        errors.append((raised.value.args, raised.value.chunk, raised.value.tensors))
    assert errors[0] == errors[1]
    assert errors[0][1] == chunk


@pytest.mark.root
@pytest.mark.parametrize("is_sealed", [True, False], ids=["sealed", "unsealed"])
def test_a_bad_sector_is_an_input_output_error_and_spares_its_neighbours(
    failing_mount: testbed.FailingMount, is_sealed: bool
) -> None:
    path = write_even(failing_mount.path / "model", _CHUNKS, CHUNK_BYTES)
    if is_sealed:
        fastio.seal(path)
    expected, start = expected_bytes(path), data_start(path)
    # In the middle of a huge page: the chunks before it there are readable.
    broken = start + 7 * CHUNK_BYTES + 8 * 4096
    broken -= broken % 4096
    failing_mount.fail_from(path, broken)
    with pytest.raises(fastio.ReadError) as raised:
        _load(path, cache="keep", block_bytes=CHUNK_BYTES)
    assert raised.value.errno == errno.EIO
    assert raised.value.path == str(path)
    assert raised.value.offset is not None
    assert broken - CHUNK_BYTES < raised.value.offset <= broken + CHUNK_BYTES
    names = [f"t{i}" for i in range(7)]
    report = fastio.Report()
    options = fastio.Options(mapping="always", block_bytes=CHUNK_BYTES)
    tensors = fastio.load(path, names=names, options=options, report=report)
    assert same_bytes(tensors, {name: expected[name] for name in names})
    assert report.engine == "mmap"


@pytest.mark.root
def test_an_interrupt_is_answered_while_a_disk_is_slow(tmp_path: Path) -> None:
    # A file for each try: lanes still bring in pages of the one before.
    paths = [write_even(tmp_path / f"model{i}", 64, CHUNK_BYTES) for i in range(3)]
    seconds = []
    with testbed.throttled(paths[0], 2 << 20):
        for path in paths:
            testbed.evict(path)
            sent: list[float] = []

            def interrupt(sent: list[float] = sent) -> None:
                time.sleep(0.3)
                sent.append(time.monotonic())
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

            interrupter = threading.Thread(target=interrupt)
            interrupter.start()
            with pytest.raises(KeyboardInterrupt):
                _load(path, mapping="always")
            seconds.append(time.monotonic() - sent[0])
            interrupter.join()
    # The best of three: a busy machine may delay a process for longer than the promise.
    assert min(seconds) < 0.1, seconds


@pytest.mark.root
def test_a_file_of_a_server_is_read_as_before(slow_mount: testbed.SlowMount) -> None:
    path = write_even(slow_mount.source / "model", 4, CHUNK_BYTES)
    tensors, report = _load(slow_mount.path / "model", mapping="always", cache="keep")
    assert same_bytes(tensors, expected_bytes(path))
    assert report.bytes_mapped == 0
    assert report.cache_reason


def test_the_replicas_of_a_store_are_never_mapped(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    store = fastio.Store.create([tmp_path / "a", tmp_path / "b"], replicas=2)
    store.save(fastio.load(model))
    report = fastio.Report()
    options = fastio.Options(mapping="always", cache="keep")
    assert same_bytes(store.load(options=options, report=report), expected_bytes(model))
    assert report.bytes_mapped == 0


def test_streams_and_single_tensors_are_read_as_before(cold: Path) -> None:
    expected = expected_bytes(cold)
    name = max(expected, key=lambda each: len(expected[each]))
    options = fastio.Options(mapping="always", cache="keep")
    for read in (
        lambda reader: dict(reader.stream()),
        lambda reader: {name: reader.tensor(name)},
    ):
        testbed.evict(cold)
        with fastio.open(cold, options=options) as reader:
            found = read(reader)
            assert same_bytes(found, {each: expected[each] for each in found})
            assert reader.report.bytes_mapped == 0


_TELL = """
import json, sys
import fastio
report = fastio.Report()
options = fastio.Options(cache="keep", mapping="always")
tensors = fastio.load(sys.argv[1], options=options, report=report)
print(json.dumps([report.engine, report.bytes_mapped, report.cache_reason, len(tensors)]))
"""


def test_a_kernel_that_reports_no_errors_of_a_mapping_is_not_asked_to_map(cold: Path) -> None:
    expected = expected_bytes(cold)
    testbed.evict(cold)
    said = json.loads(testbed.run_python(_TELL, cold, refuse={"madvise": "EINVAL"}).check().stdout)
    engine, mapped, reason, count = said
    assert engine in ("uring", "pread")
    assert mapped == 0
    assert "does not report" in reason
    assert count == len(expected)


def test_without_threads_the_callers_brings_a_file_in(cold: Path) -> None:
    expected = expected_bytes(cold)
    testbed.evict(cold)
    refused = {"clone": "EAGAIN", "clone3": "EAGAIN"}
    env = {"OPENBLAS_NUM_THREADS": "1"}
    said = json.loads(testbed.run_python(_TELL, cold, refuse=refused, env=env).check().stdout)
    assert said[0] == "mmap"
    assert said[3] == len(expected)


@pytest.mark.parametrize("left", [0, 2_500_000])
@pytest.mark.parametrize("is_sealed", [True, False], ids=["sealed", "unsealed"])
def test_a_file_that_shrinks_after_its_header_was_read_is_an_error_with_its_new_end(
    tmp_path: Path, left: int, is_sealed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_model(tmp_path / "model")
    if is_sealed:
        fastio.seal(path)
    testbed.evict(path)
    locate = huggingface.locate

    def locate_and_cut(source: Any, names: Any) -> Any:
        catalog = locate(source, names)
        os.truncate(path, left)
        return catalog

    monkeypatch.setattr(huggingface, "locate", locate_and_cut)
    with pytest.raises(fastio.ReadError) as raised:
        _load(path, mapping="always", lanes=1)
    assert (raised.value.errno, raised.value.offset) == (errno.ENODATA, left)
    assert raised.value.path == str(path)
