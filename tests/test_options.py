"""Options: an argument beats a variable, which beats the default; wrong ones are refused."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

import fastio
from load.samples import write_even

_FIELDS = {field.name for field in dataclasses.fields(fastio.Options)}


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _FIELDS:
        monkeypatch.delenv(f"FASTIO_{name.upper()}", raising=False)


def test_the_options_are_these() -> None:
    assert {
        "engine", "cache", "mapping", "block_bytes", "queue_depth", "lanes",
        "memory_limit_bytes", "pinned_limit_bytes", "device_memory_limit_bytes", "huge_pages",
        "in_place",
    } == _FIELDS  # fmt: skip


def test_defaults() -> None:
    options = fastio.Options()
    assert (options.engine, options.cache, options.mapping) == ("auto", "auto", "auto")
    assert options.huge_pages == "auto"
    assert (options.block_bytes, options.queue_depth) == (4 * 2**20, 8)
    assert options.memory_limit_bytes is None
    assert options.pinned_limit_bytes == 512 * 2**20
    assert options.device_memory_limit_bytes is None
    assert 2 <= options.lanes <= 8


@pytest.mark.parametrize(("cores", "lanes"), [(1, 2), (2, 2), (5, 2), (6, 3), (16, 8), (64, 8)])
def test_half_of_the_usable_cores_are_lanes(
    monkeypatch: pytest.MonkeyPatch, cores: int, lanes: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    assert fastio.Options().lanes == lanes


def test_options_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        fastio.Options().lanes = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "text", "value", "argument"),
    [
        ("engine", "pread", "pread", "uring"),
        ("cache", "keep", "keep", "bypass"),
        ("mapping", "never", "never", "auto"),
        ("block_bytes", "8M", 8 * 2**20, 2**20),
        ("block_bytes", " 65536 ", 65536, 2**20),
        ("queue_depth", "16", 16, 4),
        ("lanes", "3", 3, 5),
        ("memory_limit_bytes", "1g", 2**30, 2**20),
        ("memory_limit_bytes", "2T", 2**41, 2**20),
        ("memory_limit_bytes", "7k", 7168, 2**20),
        ("huge_pages", "off", "off", "on"),
        ("in_place", "1", True, False),
        ("in_place", " True ", True, False),
    ],
)
def test_an_argument_beats_a_variable_and_that_the_default(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, value: object, argument: Any
) -> None:
    default = getattr(fastio.Options(), name)
    monkeypatch.setenv(f"FASTIO_{name.upper()}", text)
    assert getattr(fastio.Options(), name) == value != default
    assert getattr(fastio.Options(**{name: argument}), name) == argument
    monkeypatch.setenv(f"FASTIO_{name.upper()}", "")
    assert getattr(fastio.Options(), name) == default


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("engine", "libaio"),
        ("cache", ""),
        ("mapping", "always"),
        ("huge_pages", "yes"),
        ("block_bytes", 0),
        ("block_bytes", 2**30 + 1),
        ("queue_depth", 0),
        ("queue_depth", 4097),
        ("lanes", -1),
        ("lanes", 1025),
        ("memory_limit_bytes", 0),
        ("memory_limit_bytes", 2**63),
    ],
)
def test_a_value_that_an_option_cannot_have_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        fastio.Options(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("block_bytes", 1),
        ("block_bytes", 2**30),
        ("queue_depth", 1),
        ("queue_depth", 4096),
        ("lanes", 1),
        ("lanes", 1024),
        ("memory_limit_bytes", 1),
        ("memory_limit_bytes", 2**63 - 1),
    ],
)
def test_the_ends_of_a_range_are_in_it(
    monkeypatch: pytest.MonkeyPatch, name: str, value: Any
) -> None:
    assert getattr(fastio.Options(**{name: value}), name) == value
    monkeypatch.setenv(f"FASTIO_{name.upper()}", str(value))
    assert getattr(fastio.Options(), name) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("engine", 1),
        ("cache", None),
        ("block_bytes", "4M"),
        ("block_bytes", 4.0),
        ("block_bytes", None),
        ("lanes", None),
        ("memory_limit_bytes", 1e9),
        ("in_place", 1),
        ("in_place", None),
    ],
)
def test_a_value_of_a_wrong_type_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=name):
        fastio.Options(**{name: value})


@pytest.mark.parametrize("name", ["block_bytes", "queue_depth", "lanes", "memory_limit_bytes"])
@pytest.mark.parametrize("value", [True, False])
def test_a_bool_is_no_number(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"{name} must be an int, not bool"):
        fastio.Options(**{name: value})


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("FASTIO_ENGINE", "libaio"),
        ("FASTIO_ENGINE", "PREAD"),
        ("FASTIO_CACHE", "no"),
        ("FASTIO_MAPPING", "1"),
        ("FASTIO_HUGE_PAGES", "always"),
        ("FASTIO_BLOCK_BYTES", "2G"),
        ("FASTIO_MEMORY_LIMIT_BYTES", "8388608T"),
        ("FASTIO_BLOCK_BYTES", "4MiB"),
        ("FASTIO_BLOCK_BYTES", "4.5M"),
        ("FASTIO_BLOCK_BYTES", "-1"),
        ("FASTIO_LANES", "many"),
        ("FASTIO_LANES", "\uff18"),
        ("FASTIO_LANES", "8" * 5000),
        ("FASTIO_LANES", "0"),
        ("FASTIO_QUEUE_DEPTH", "8kk"),
        ("FASTIO_MEMORY_LIMIT_BYTES", "G"),
        ("FASTIO_IN_PLACE", "maybe"),
    ],
)
def test_a_wrong_variable_is_refused_by_its_own_name(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str
) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(ValueError, match=f"{variable}='?{text[:200]}") as raised:
        fastio.Options()
    assert len(str(raised.value)) < 400


def test_a_wrong_variable_does_not_matter_beside_an_argument(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FASTIO_LANES", "many")
    assert fastio.Options(lanes=3).lanes == 3


def test_a_variable_is_read_when_the_options_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fastio.Options()
    monkeypatch.setenv("FASTIO_QUEUE_DEPTH", "17")
    assert (before.queue_depth, fastio.Options().queue_depth) == (8, 17)


def test_a_load_does_what_the_argument_says_then_the_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = write_even(tmp_path / "model.safetensors", 8, 2**20)

    def loaded(**arguments: Any) -> tuple[str, str, int, bool]:
        report = fastio.Report()
        options = fastio.Options(**arguments) if arguments else None
        fastio.load(path, options=options, report=report)
        read = report.bytes_direct + report.bytes_buffered > 0
        return report.engine, report.engine_reason, report.lanes, read

    monkeypatch.setenv("FASTIO_CACHE", "bypass")
    monkeypatch.setenv("FASTIO_ENGINE", "pread")
    monkeypatch.setenv("FASTIO_BLOCK_BYTES", "1M")
    monkeypatch.setenv("FASTIO_LANES", "3")
    assert loaded() == ("pread", "asked for", 3, True)
    # The other options still come from their variables.
    assert loaded(lanes=2) == ("pread", "asked for", 2, True)
    monkeypatch.setenv("FASTIO_ENGINE", "uring")
    assert loaded(engine="pread") == ("pread", "asked for", 3, True)
    monkeypatch.setenv("FASTIO_MEMORY_LIMIT_BYTES", "1M")
    with pytest.raises(fastio.MemoryLimitError):
        loaded()
    assert loaded(engine="pread", memory_limit_bytes=2**30)[0] == "pread"


def test_nothing_else_is_an_option() -> None:
    with pytest.raises(TypeError, match="threads"):
        fastio.Options(threads=4)  # type: ignore[call-arg]
