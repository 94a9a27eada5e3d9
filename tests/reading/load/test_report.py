"""The messages of a load: its report, its log lines, its progress bar."""

import logging
import os
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rich.progress

import fastio
import testbed
from fastio import _native
from samples import (
    CHUNK_BYTES,
    chunk_count,
    data_start,
    eventually,
    expected_bytes,
    flip,
    native_threads,
    same_bytes,
    write,
    write_even,
    write_model,
)


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    return fastio.seal(write_model(tmp_path / "model"))


def test_every_field_is_filled(sealed: Path) -> None:
    testbed.evict(sealed)
    report = fastio.Report()
    fastio.load(sealed, report=report)
    assert report.engine in ("uring", "pread")
    assert report.engine_reason
    assert report.cache == "cold"
    assert "O_DIRECT" in report.cache_reason
    assert report.tensors == len(expected_bytes(sealed))
    assert report.files == 1
    assert report.nbytes == sum(map(len, expected_bytes(sealed).values()))
    assert report.bytes_direct == report.bytes_read == report.nbytes
    assert (report.bytes_buffered, report.bytes_mapped) == (0, 0)
    assert report.seconds > 0
    assert report.cpu_seconds > 0
    assert report.gb_per_s == pytest.approx(report.nbytes / report.seconds / 1e9)
    assert report.lanes >= 1
    assert report.chunks_verified == chunk_count(sealed)
    assert report.unverified == ()
    assert report.fallbacks == ()


_PARTS = [
    each.name
    for each in fields(fastio.LaneTimes)
    if each.name.endswith("_s") and each.name != "total_s"
]


@pytest.mark.parametrize("engine", ["uring", "pread"])
@pytest.mark.parametrize("framework", ["numpy", "load_into"])
def test_a_lane_says_where_its_time_went(sealed: Path, engine: Any, framework: str) -> None:
    options = fastio.Options(engine=engine)
    into = {name: array.copy() for name, array in fastio.load(sealed).items()}
    testbed.evict(sealed)
    report = fastio.Report()
    if framework == "numpy":
        fastio.load(sealed, options=options, report=report)
    else:
        fastio.load_into(sealed, into, options=options, report=report)
    assert len(report.lane_times) == report.lanes > 0
    assert sum(lane.nbytes for lane in report.lane_times) == report.bytes_read
    assert all(lane.blocks > 0 for lane in report.lane_times if lane.nbytes)
    for lane in report.lane_times:
        parts = [getattr(lane, name) for name in _PARTS]
        assert all(part >= 0 for part in parts)
        assert sum(parts) <= lane.total_s + 1e-6
        assert lane.total_s <= report.seconds
        assert lane.copy_queue_s == lane.copy_wait_s == 0  # no device
    assert sum(lane.verify_s for lane in report.lane_times) > 0
    assert sum(lane.submit_s for lane in report.lane_times) > 0


def test_a_cached_file_is_copied_in_blocks_that_stay_in_a_cores_cache(sealed: Path) -> None:

    def blocks(cache: Any) -> int:
        report = fastio.Report()
        options = fastio.Options(cache=cache, mapping="never", block_bytes=4 * 2**20)
        sealed.read_bytes()
        fastio.load(sealed, options=options, report=report)
        return sum(lane.blocks for lane in report.lane_times)

    of_four = blocks("bypass")
    # Somebody else may drop the page cache in between.
    assert eventually(lambda: blocks("keep") > of_four)


def test_a_small_load_on_the_callers_thread_has_no_lane(tmp_path: Path) -> None:
    path = fastio.seal(write(tmp_path / "small", {"a": ("U8", (3,))}))
    report = fastio.Report()
    with testbed.kept_warm(path):
        fastio.load(path, report=report)
    assert (report.lanes, report.lane_times) == (0, ())


def test_lanes_of_several_jobs_are_counted_side_by_side() -> None:
    one, more = fastio.LaneTimes(submit_s=1, blocks=2), fastio.LaneTimes(submit_s=4, nbytes=8)
    report = fastio.Report(lanes=1, lane_times=(one,))
    report.merge(fastio.Report(lanes=2, lane_times=(more, one)))
    both = fastio.LaneTimes(submit_s=5, blocks=2, nbytes=8)
    assert report.lane_times == (both, one)
    report.merge(fastio.Report())
    assert report.lane_times == (both, one)


def test_a_report_is_a_few_readable_lines(sealed: Path) -> None:
    report = fastio.Report()
    fastio.load(sealed, report=report)
    lines = str(report).splitlines()
    assert len(lines) == 5
    assert all(line.isprintable() for line in lines)
    assert lines == [
        f"{report.tensors} tensors, {report.nbytes / 1e6:.1f} MB, 1 file",
        f"{report.seconds:.3f} s, {report.gb_per_s:.2f} GB/s, {report.cpu_seconds:.2f} CPU s",
        f"engine {report.engine} ({report.engine_reason})",
        f"cache {report.cache} ({report.cache_reason})",
        f"{report.chunks_verified} chunks verified",
    ]


def test_the_repr_of_a_report_is_one_short_line(sealed: Path) -> None:
    report = fastio.Report()
    fastio.load(sealed, report=report)
    speed = f"{report.nbytes / 1e6:.1f} MB in {report.seconds:.3f} s ({report.gb_per_s:.2f} GB/s)"
    verified = f"{report.chunks_verified} chunks verified"
    assert repr(report) == f"<fastio.Report: {speed}, {report.engine}, 1 file, {verified}>"
    fastio.save({"a": np.zeros(1000)}, sealed, report=report)
    assert repr(report).endswith("1 file, 1 chunk sealed>")


def test_an_empty_report_is_a_line_too() -> None:
    assert "\n" not in str(fastio.Report())
    assert repr(fastio.Report()) == "<fastio.Report: nothing yet>"
    assert fastio.Report().gb_per_s == 0


def test_a_report_of_ten_thousand_fallbacks_is_short_in_print_and_whole_in_memory() -> None:
    fallbacks = tuple(f"file {at} was taken from elsewhere" for at in range(10_000))
    report = fastio.Report(engine="uring", fallbacks=fallbacks)
    shown = str(report)
    assert len(shown.splitlines()) < 20
    assert "file 0 was" in shown
    assert shown.endswith("… and 9990 more")
    assert len(report.line()) < 500
    assert report.line().endswith("… and 9997 more")
    assert len(repr(report)) <= 120
    assert "10000 fallbacks" in repr(report)
    assert len(report._repr_html_()) < 2000
    assert len(report.fallbacks) == 10_000


def test_a_notebook_shows_a_report_as_text_that_is_escaped() -> None:
    report = fastio.Report(engine="uring", fallbacks=("<b>\udcff: & so on",))
    shown = report._repr_html_()
    assert "&lt;b&gt;?: &amp; so on" in shown
    assert "<b>" not in shown
    shown.encode()


@pytest.mark.parametrize(
    ("seconds", "nbytes", "shown"),
    [
        (0.7423, 2_470_000_000, "2.47 GB in 0.742 s (3.33 GB/s)"),
        (0.000_21, 80_000, "80.0 kB in 210 µs (0.38 GB/s)"),
        (12, 999, "999 B in 12.000 s (83 B/s)"),
        (0, 0, "0 B in 0.000 s (0.00 GB/s)"),
    ],
)
def test_small_sizes_and_short_times_are_not_shown_as_zero(
    seconds: float, nbytes: int, shown: str
) -> None:
    report = fastio.Report(engine="uring", seconds=seconds, nbytes=nbytes)
    assert shown in repr(report)


@pytest.mark.parametrize("kind", ["load", "load_into", "save", "store.load", "store.save"])
def test_each_way_to_load_or_save_is_one_line_of_the_log(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tensors = {f"t{i}": np.full(100_000, i) for i in range(5)}
    path = fastio.save(tensors, tmp_path / "model")
    store = fastio.Store.create([tmp_path / "root"], replicas=1)
    store.save(tensors)
    into = {name: np.empty_like(array) for name, array in tensors.items()}
    calls: dict[str, Any] = {
        "load": lambda report: fastio.load(path, report=report),
        "load_into": lambda report: fastio.load_into(path, into, report=report),
        "save": lambda report: fastio.save(tensors, tmp_path / "other", report=report),
        "store.load": lambda report: store.load(report=report),
        "store.save": lambda report: store.save(dict(into, new=np.ones(3)), report=report),
    }
    report = fastio.Report()
    with caplog.at_level(logging.INFO, logger="fastio"):
        calls[kind](report)
    (record,) = (each for each in caplog.records if each.name.startswith("fastio"))
    assert record.levelno == logging.INFO
    assert record.getMessage().endswith(f": {report.line()}")
    assert "\n" not in record.getMessage()


def test_a_report_that_is_used_again_is_cleared(sealed: Path, tmp_path: Path) -> None:
    report = fastio.Report()
    fastio.load(sealed, report=report)
    small = write(tmp_path / "small", {"a": ("U8", (3,))})
    fresh = fastio.Report()
    fastio.load(small, report=report)
    fastio.load(small, report=fresh)
    timed = {"seconds", "cpu_seconds", "lane_times"}
    for each in fields(fastio.Report):
        if each.name not in timed:
            assert getattr(report, each.name) == getattr(fresh, each.name), each.name
    assert len(report.lane_times) == report.lanes


@pytest.mark.parametrize("ending", ["damaged", "missing"])
def test_a_report_of_a_load_that_fails_says_nothing_of_the_one_before(
    sealed: Path, ending: str, tmp_path: Path
) -> None:
    report = fastio.Report()
    fastio.load(sealed, report=report)
    if ending == "damaged":
        flip(sealed, data_start(sealed))
        with pytest.raises(fastio.ChecksumError):
            fastio.load(sealed, report=report)
    else:
        with pytest.raises(FileNotFoundError):
            fastio.load(tmp_path / "nowhere", report=report)
    assert report == fastio.Report()


def test_one_line_of_the_log_sums_up_the_report(
    sealed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    report = fastio.Report()
    with caplog.at_level(logging.INFO, logger="fastio"):
        fastio.load(sealed, report=report)
    (record,) = (each for each in caplog.records if each.name.startswith("fastio"))
    assert record.levelno == logging.INFO
    assert record.getMessage() == f"loaded {sealed}: {report.line()}"
    assert report.line().splitlines() == [str(report).replace("\n", "; ")]


def test_the_log_tells_without_a_report_too(sealed: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="fastio"):
        fastio.load(sealed)
    (record,) = (each for each in caplog.records if each.name.startswith("fastio"))
    assert f"{chunk_count(sealed)} chunks verified" in record.getMessage()


def test_files_without_checksums_are_named(sealed: Path, tmp_path: Path) -> None:
    plain = write(tmp_path / "plain", {"a": ("U8", (3,))})
    other = write(tmp_path / "other", {"b": ("U8", (3,))})
    report = fastio.Report()
    fastio.load([plain, sealed, other], report=report)
    assert list(report.unverified) == [str(plain), str(other)]
    assert report.chunks_verified == chunk_count(sealed)
    assert "2 of 3 files unverified" in str(report)
    # Only the files that are read.
    fastio.load([plain, sealed, other], names=["b", "mask"], report=report)
    assert list(report.unverified) == [str(other)]
    assert report.files == 2


def test_without_verification_every_file_is_unverified(sealed: Path) -> None:
    report = fastio.Report()
    fastio.load(sealed, verify=False, report=report)
    assert report.unverified == (str(sealed),)
    assert "0 chunks verified, 1 of 1 files unverified" in str(report)


def test_files_in_different_states_are_mixed(tmp_path: Path) -> None:
    cold = write_even(tmp_path / "cold", 6, CHUNK_BYTES)
    warm = write(tmp_path / "warm", {"a": ("U8", (3 * CHUNK_BYTES,))})
    testbed.evict(cold)
    report = fastio.Report()
    with testbed.kept_warm(warm):
        tensors = fastio.load([cold, warm], report=report)
    assert same_bytes(tensors, expected_bytes(cold, warm))
    assert report.cache == "mixed"
    assert report.engine in ("uring", "pread")
    assert report.bytes_direct > 0
    assert "other reasons" in report.cache_reason


def test_ranks_of_one_host_keep_a_cold_file_and_say_so(
    sealed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")

    def is_kept() -> bool:
        testbed.evict(sealed)
        report = fastio.Report()
        options = fastio.Options(mapping="never")
        tensors = fastio.load(sealed, options=options, report=report)
        assert same_bytes(tensors, expected_bytes(sealed))
        assert report.bytes_direct == 0
        assert report.bytes_buffered == report.nbytes
        assert "ranks" in report.cache_reason
        return testbed.resident_bytes(sealed) >= sealed.stat().st_size

    assert eventually(is_kept)  # again if the machine reclaimed pages at once


@pytest.mark.parametrize("temperature", ["cold", "warm"])
@pytest.mark.parametrize("mapping", ["auto", "never"])
def test_a_progress_bar_is_shown_when_asked_for(
    sealed: Path, temperature: str, mapping: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    options = fastio.Options(mapping=mapping)
    fastio.load(sealed, options=options)
    assert capsys.readouterr() == ("", "")
    if temperature == "cold":
        testbed.evict(sealed)
    tensors = fastio.load(sealed, options=options, progress=True)
    assert same_bytes(tensors, expected_bytes(sealed))
    out, shown = capsys.readouterr()
    assert out == ""  # reserved for the program
    assert sealed.name in shown
    # All of it, in the end: "12.2/12.2 MB".
    done = re.search(r"([\d.]+)/([\d.]+) MB", shown)
    assert done is not None, shown
    assert done[1] == done[2]


@pytest.mark.parametrize("name", [b"m[bold].safetensors", b"n\xff.safetensors"], ids=repr)
def test_a_progress_bar_shows_any_name(
    name: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_even(Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))), 1, 10)
    fastio.load(path, progress=True)
    assert name.decode(errors="replace").replace("\ufffd", "?") in capsys.readouterr().err


@pytest.mark.parametrize("engine", ["uring", "pread"])
def test_an_error_in_the_progress_bar_ends_the_load_and_leaves_nothing(
    sealed: Path, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the terminal is gone")

    monkeypatch.setattr(rich.progress.Progress, "update", fail)
    testbed.evict(sealed)
    threads = native_threads()
    # The first block comes late: the load is still running when the bar fails.
    _native.testing.set_completion_faults([(0, "late", 200)])
    try:
        with pytest.raises(RuntimeError, match="the terminal is gone"):
            fastio.load(sealed, progress=True, options=fastio.Options(engine=engine))
        assert eventually(lambda: _native.testing.abandoned_bytes() == 0)
        assert eventually(lambda: native_threads() <= threads)
    finally:
        _native.testing.set_completion_faults([])
    monkeypatch.undo()
    assert same_bytes(fastio.load(sealed), expected_bytes(sealed))


def test_the_engine_report_lists_the_engines_with_reasons() -> None:
    host = fastio.engine_report()
    assert list(host.engines) == ["uring", "pread"]
    assert host.chosen in host.engines
    assert host.engines[host.chosen].available
    assert host.reason
    for status in host.engines.values():
        assert isinstance(status, fastio.EngineStatus)
        assert status.reason
    lines = str(host).splitlines()
    assert lines[0] == f"engine: {host.chosen} ({host.reason})"
    for name, status in host.engines.items():
        yes = "yes" if status.available else "NO"
        assert f"  {name}: {yes}, {status.reason}" in lines
        assert all(f"    {feature}" in lines for feature in status.features)
    assert lines[-1].startswith("checksum: XXH3-64")


def test_the_engine_report_lists_the_features_of_the_kernel() -> None:
    host = fastio.engine_report()
    if not host.engines["uring"].available:
        pytest.skip(f"no ring here: {host.engines['uring'].reason}")
    assert host.kernel_reason == ""
    assert "nodrop" in host.kernel_features
    assert {"nop", "read", "read_fixed"} <= set(host.kernel_operations)
    assert all(name in str(host) for name in host.kernel_features)
    assert f"{len(host.kernel_operations)} operations" in str(host)


@pytest.mark.parametrize("refusal", ["EPERM", "ENOSYS", "not built"])
def test_unavailable_kernel_features_have_a_reason(refusal: Any) -> None:
    code = """
import sys
if sys.argv[1] == "not built":
    sys.modules["fastio._uring"] = None
import fastio
host = fastio.engine_report()
assert host.kernel_features == host.kernel_operations == ()
assert f"io_uring of the kernel: not known, {host.kernel_reason}" in str(host).splitlines()
print(host.kernel_reason)
"""
    seccomp = None if refusal == "not built" else refusal
    said = testbed.run_python(code, refusal, seccomp=seccomp).check().stdout
    expected = {"EPERM": "seccomp", "ENOSYS": "the kernel has no io_uring"}
    assert expected.get(refusal, "built without liburing") in said


def test_the_engine_that_is_chosen_is_the_one_that_reads(sealed: Path) -> None:
    report = fastio.Report()
    fastio.load(sealed, options=fastio.Options(cache="bypass"), report=report)
    assert report.engine == fastio.engine_report().chosen
