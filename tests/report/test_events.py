"""A log line about many files names the first few, and the number of the others."""

import logging
import os
import threading
from pathlib import Path

import numpy as np
import pytest

import fastio
from fastio.display.short_log import brief
from fastio.report.events import Event
from fastio.saving import folder

_log = logging.getLogger("fastio")


def test_the_first_few_of_a_kind_are_logged_and_the_others_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="fastio")
    with brief("saving model"):
        for at in range(50):
            _log.warning("file %d keeps its owner", at)
            _log.info("removed %d", at)
        _log.warning("something else")
    _log.warning("file %d keeps its owner", 99)
    assert [record.getMessage() for record in caplog.records] == [
        *(text for at in range(3) for text in (f"file {at} keeps its owner", f"removed {at}")),
        "something else",
        "saving model: 47 more files like these",
        "saving model: 47 more files like these",
        "file 99 keeps its owner",
    ]
    assert [record.levelno for record in caplog.records[-3:-1]] == [logging.WARNING, logging.INFO]


def test_log_lines_of_other_threads_pass_unfiltered(caplog: pytest.LogCaptureFixture) -> None:
    def work() -> None:
        for at in range(9):
            _log.warning("another %d", at)

    with brief("here"):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert len(caplog.records) == 9


def test_an_error_leaves_no_filter_behind(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(RuntimeError), brief("here"):
        raise RuntimeError
    for at in range(9):
        _log.warning("%d", at)
    assert len(caplog.records) == 9


def test_a_save_over_many_leftovers_says_so_in_few_lines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="fastio")
    for at in range(40):
        (tmp_path / f".model.{at:016x}.fastio-tmp").touch()
    fastio.save({"a": np.ones(3)}, tmp_path / "model")
    assert os.listdir(tmp_path) == ["model"]
    assert len(caplog.records) == 5
    assert any("37 more files" in record.getMessage() for record in caplog.records)


def test_tensors_that_are_larger_than_a_shard_are_one_line_of_the_report(tmp_path: Path) -> None:
    report = fastio.Report()
    tensors = {f"t{at}": np.full(100, at) for at in range(200)}
    fastio.save(tensors, tmp_path / "model", shard_bytes=10, report=report)
    (line,) = report.fallbacks
    assert "t0 has 800 bytes" in line
    assert "197 more" in line
    assert (tmp_path / "model" / folder.INDEX).exists()


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (Event("fallback", "f", "is missing", "done"), "f: is missing; done"),
        (
            Event("fallback", "f", "bad", "done", 5, 10, ("a",), 1, ((5, 15),)),
            "f (10 bytes at byte 5): bad; done",
        ),
        (
            Event("fallback", "f", "bad", "done", 0, 30, ("a",), 3, ((0, 30),)),
            "f (3 chunks, 30 bytes at byte 0): bad; done",
        ),
        (
            Event("fallback", "f", "bad", "done", 0, 20, ("a",), 2, ((0, 10), (20, 30))),
            "f (2 chunks, 20 bytes: 0-10, 20-30): bad; done",
        ),
        (
            Event("fallback", "f", "bad", "done", 0, 4, (), 4, ((0, 1), (2, 3), (4, 5), (6, 7))),
            "f (4 chunks, 4 bytes: 0-1, 2-3, 4-5 and 1 more): bad; done",
        ),
    ],
)
def test_an_event_says_where(event: Event, text: str) -> None:
    assert str(event) == text
    assert len(repr(event)) <= 120
