"""Tensors that change while they are saved: the file still agrees with its table."""

import itertools
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastio

_BYTES = 24 << 20


def _aligned(nbytes: int) -> Any:
    """Bytes that a direct write takes without staging."""
    raw = np.zeros(nbytes + 4096, np.uint8)
    begin = -raw.ctypes.data % 4096
    return raw[begin : begin + nbytes]


@contextmanager
def _changing(array: Any) -> Iterator[None]:
    ended = threading.Event()

    def change() -> None:
        for value in itertools.cycle(range(251)):
            if ended.is_set():
                return
            array[:] = value

    thread = threading.Thread(target=change)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize("how", ["file", "shards", "borrow", "odd"])
def test_the_file_verifies(tmp_path: Path, engine: Any, cache: Any, how: str) -> None:
    array = _aligned(_BYTES)
    tensors = {"a": array[: _BYTES // 2], "b": array[_BYTES // 2 : _BYTES - 1000 * (how == "odd")]}
    options = fastio.Options(engine=engine, cache=cache)
    with _changing(array):
        for _ in range(3):
            if how == "borrow":
                handle = fastio.start_save(
                    tensors, tmp_path / "model", snapshot="borrow", options=options
                )
                handle.result(60)
            else:
                fastio.save(
                    tensors,
                    tmp_path / "model",
                    shard_bytes=_BYTES // 2 if how == "shards" else None,
                    durable=False,
                    options=options,
                )
            assert fastio.load(tmp_path / "model").keys() == tensors.keys()


def test_a_changed_block_is_copied_and_written_again_and_reported(
    tmp_path: Path,
    engine: Any,
    cache: Any,
    faults: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    array = _aligned(8 << 20)
    array[:] = 7
    faults((2, "change", 12345))
    report = fastio.Report()
    options = fastio.Options(
        engine=engine, cache=cache, lanes=1, queue_depth=1, block_bytes=4 << 20
    )
    with caplog.at_level(logging.WARNING, "fastio"):
        fastio.save({"a": array}, tmp_path / "model", options=options, report=report)
    found = fastio.load(tmp_path / "model", verify="require")["a"]
    assert np.array_equal(found, array)
    assert np.flatnonzero(found != 7).tolist() == [(2 << 21) + 12345]
    assert report.bytes_gathered == 8 << 20
    (fallback,) = report.fallbacks
    assert str(tmp_path / "model") in fallback
    assert "changed while they were saved" in fallback
    assert "changed while they were saved" in caplog.text


def test_a_file_without_checksums_takes_whatever_is_there(
    tmp_path: Path, faults: Callable[..., None]
) -> None:
    array = _aligned(8 << 20)
    faults((0, "change", 5))
    report = fastio.Report()
    fastio.save({"a": array}, tmp_path / "model", checksums=False, report=report)
    assert report.fallbacks == ()
    assert fastio.load(tmp_path / "model")["a"].sum() <= 1
