"""Options: an argument beats a variable, which beats the default; wrong ones are refused."""

import copy
import dataclasses
import math
import os
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastio
from fastio.arguments import variables
from fastio.options import default_options
from samples import same_bytes, write_even
from testbed import run_python

_FIELDS = {field.name for field in dataclasses.fields(fastio.Options)}


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _FIELDS:
        monkeypatch.delenv(f"FASTIO_{name.upper()}", raising=False)


def test_the_options_are_these() -> None:
    assert {
        "engine", "cache", "mapping", "block_bytes", "queue_depth", "lanes", "lanes_limit",
        "memory_limit_bytes", "pinned_limit_bytes", "device_memory_limit_bytes", "huge_pages",
        "in_place", "root_timeout_s", "hedge_after_s", "trust_verified",
    } == _FIELDS  # fmt: skip


def test_defaults() -> None:
    options = fastio.Options()
    assert (options.engine, options.cache, options.mapping) == ("auto", "auto", "auto")
    assert options.huge_pages == "auto"
    assert (options.block_bytes, options.queue_depth) == (4 * 2**20, 8)
    assert options.memory_limit_bytes is None
    assert options.pinned_limit_bytes == 512 * 2**20
    assert options.device_memory_limit_bytes is None
    assert options.root_timeout_s == 10
    assert options.hedge_after_s is None
    assert 2 <= options.lanes <= 16


@pytest.mark.parametrize(
    ("cores", "lanes"), [(1, 2), (2, 2), (4, 4), (6, 6), (16, 16), (22, 16), (64, 16)]
)
def test_there_are_as_many_lanes_as_usable_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, lanes: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setattr("fastio.host.cores.quota_cores", lambda: None)
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
        ("block_bytes", "8MB", 8 * 10**6, 2**20),
        ("block_bytes", "8 MiB", 8 * 2**20, 2**20),
        ("block_bytes", "1e6", 10**6, 2**20),
        ("engine", "PREAD", "pread", "uring"),
        ("queue_depth", "16", 16, 4),
        ("lanes", "3", 3, 5),
        ("lanes_limit", "32", 32, 5),
        ("memory_limit_bytes", "1g", 2**30, 2**20),
        ("memory_limit_bytes", "2T", 2**41, 2**20),
        ("memory_limit_bytes", "7k", 7168, 2**20),
        ("huge_pages", "off", "off", "on"),
        ("in_place", "1", True, False),
        ("trust_verified", "yes", True, False),
        ("in_place", " True ", True, False),
        ("root_timeout_s", "2.5", 2.5, 30.0),
        ("root_timeout_s", " 120 s ", 120.0, 30.0),
        ("root_timeout_s", "inf", math.inf, 30.0),
        ("hedge_after_s", "0.25", 0.25, 1.0),
        ("hedge_after_s", "inf", math.inf, None),
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
        ("mapping", "sometimes"),
        ("huge_pages", "yes"),
        ("block_bytes", 0),
        ("block_bytes", 2**30 + 1),
        ("queue_depth", 0),
        ("queue_depth", 4097),
        ("lanes", -1),
        ("lanes", 1025),
        ("lanes_limit", 0),
        ("lanes_limit", 1025),
        ("memory_limit_bytes", 0),
        ("memory_limit_bytes", 2**63),
        ("root_timeout_s", 0),
        ("hedge_after_s", 0),
        ("hedge_after_s", "late"),
        ("root_timeout_s", -1.5),
        ("root_timeout_s", math.nan),
        ("root_timeout_s", -math.inf),
        ("root_timeout_s", "soon"),
        ("root_timeout_s", "10 ms"),
        ("root_timeout_s", "nan"),
        ("root_timeout_s", "\uff18"),
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
        ("lanes_limit", 1),
        ("lanes_limit", 1024),
        ("memory_limit_bytes", 1),
        ("memory_limit_bytes", 2**63 - 1),
        ("root_timeout_s", 1e-9),
        ("root_timeout_s", math.inf),
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
        ("block_bytes", b"4M"),
        ("block_bytes", None),
        ("block_bytes", [4]),
        ("block_bytes", np.array([4, 5])),
        ("lanes", None),
        ("lanes", 2j),
        ("lanes_limit", b"3"),
        ("in_place", 1),
        ("in_place", None),
        ("root_timeout_s", None),
        ("root_timeout_s", b"10"),
        ("hedge_after_s", True),
        ("root_timeout_s", True),
        ("root_timeout_s", np.array([1.0, 2.0])),
    ],
)
def test_a_value_of_a_wrong_type_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=name):
        fastio.Options(**{name: value})


@pytest.mark.parametrize("name", ["block_bytes", "queue_depth", "lanes", "memory_limit_bytes"])
@pytest.mark.parametrize("value", [True, False, np.True_])
def test_a_bool_is_no_number(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"{name} must be an int, not bool"):
        fastio.Options(**{name: value})


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("FASTIO_ENGINE", "libaio"),
        ("FASTIO_CACHE", "no"),
        ("FASTIO_MAPPING", "1"),
        ("FASTIO_HUGE_PAGES", "always"),
        ("FASTIO_BLOCK_BYTES", "2G"),
        ("FASTIO_MEMORY_LIMIT_BYTES", "8388608T"),
        ("FASTIO_BLOCK_BYTES", "4XB"),
        ("FASTIO_BLOCK_BYTES", "4M M"),
        ("FASTIO_BLOCK_BYTES", "4.5"),
        ("FASTIO_MEMORY_LIMIT_BYTES", "1e99"),
        ("FASTIO_MEMORY_LIMIT_BYTES", "1e999999999"),
        ("FASTIO_MEMORY_LIMIT_BYTES", "nan"),
        ("FASTIO_MEMORY_LIMIT_BYTES", "inf"),
        ("FASTIO_BLOCK_BYTES", "-1"),
        ("FASTIO_LANES", "many"),
        ("FASTIO_LANES", "\uff18"),
        ("FASTIO_LANES", "8" * 5000),
        ("FASTIO_LANES", "0"),
        ("FASTIO_QUEUE_DEPTH", "8kk"),
        ("FASTIO_MEMORY_LIMIT_BYTES", "G"),
        ("FASTIO_IN_PLACE", "maybe"),
        ("FASTIO_ROOT_TIMEOUT_S", "0"),
        ("FASTIO_ROOT_TIMEOUT_S", "1min"),
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


def test_a_load_obeys_the_argument_then_the_variable(
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


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("8M", 8 * 2**20),
        ("8m", 8 * 2**20),
        (" 8 M ", 8 * 2**20),
        ("8MiB", 8 * 2**20),
        ("8mib", 8 * 2**20),
        ("8MB", 8 * 10**6),
        ("8 mb", 8 * 10**6),
        ("8000kB", 8 * 10**6),
        ("8192K", 8 * 2**20),
        ("4194304B", 2**22),
        ("0.5G", 2**29),
        ("1.5 MiB", 3 * 2**19),
        ("0.0015GB", 1_500_000),
        ("1.1M", 1153433),  # 1153433.6
        ("1_000_000", 10**6),
        ("1e6", 10**6),
        ("2.5E+6", 2_500_000),
        ("7.", 7),
        ("1.5e3", 1500),
        (8e6, 8 * 10**6),
        (np.float32(1024), 1024),
        (np.float64(1024), 1024),
        (np.int64(2**20), 2**20),
        (np.uint8(200), 200),
        (np.array(7), 7),
        (np.str_("8M"), 8 * 2**20),
    ],
)
def test_a_number_is_read_by_its_meaning(value: Any, number: int) -> None:
    found = fastio.Options(block_bytes=value, memory_limit_bytes=value)
    assert (found.block_bytes, found.memory_limit_bytes) == (number, number)
    assert type(found.block_bytes) is int


@given(st.integers(1, 2**30), st.sampled_from(["", "B", "b"]))
def test_every_number_of_bytes_is_read_as_it_is_written(number: int, unit: str) -> None:
    for text in (f"{number}{unit}", f"{number:_}", f"{number:_} {unit}"):
        assert fastio.Options(block_bytes=text).block_bytes == number


@pytest.mark.parametrize("value", [1.5, "1.5", -1.0, float("nan"), float("inf"), "-8M", "8e-1", ""])
def test_an_invalid_or_fractional_number_is_refused(value: Any) -> None:
    for name in ("block_bytes", "lanes", "memory_limit_bytes"):
        with pytest.raises(ValueError, match=name):
            fastio.Options(**{name: value})


def test_counts_are_taken_like_sizes() -> None:
    options = fastio.Options(queue_depth="16", lanes=3.0)
    assert (options.queue_depth, options.lanes) == (16, 3)


@pytest.mark.parametrize(
    ("value", "time_s"),
    [
        (3, 3.0),
        (0.3, 0.3),
        (10**400, math.inf),
        (np.float32(0.5), 0.5),
        (np.int64(7), 7.0),
        (np.array(7), 7.0),
        ("1e3", 1000.0),
        ("2s", 2.0),
        ("INF", math.inf),
    ],
)
def test_a_time_is_read_by_its_meaning(value: Any, time_s: float) -> None:
    found = fastio.Options(root_timeout_s=value).root_timeout_s
    assert found == time_s
    assert type(found) is float


@pytest.mark.parametrize(
    ("name", "value"),
    [("engine", "PRead"), ("cache", "Bypass"), ("mapping", "NEVER"), ("huge_pages", "OFF")],
)
def test_a_choice_may_be_written_in_capitals(name: str, value: Any) -> None:
    assert getattr(fastio.Options(**{name: value}), name) == value.lower()


def test_options_that_were_made_from_texts_travel() -> None:
    options = fastio.Options(block_bytes="8M", memory_limit_bytes=1e9)
    assert pickle.loads(pickle.dumps(options)) == copy.copy(options) == options
    assert dataclasses.replace(options, lanes=2).block_bytes == 8 * 2**20


def test_other_sizes_are_written_like_those_of_options(tmp_path: Path) -> None:
    tensors = {name: np.zeros(1000, np.uint8) for name in "abc"}
    fastio.save(tensors, tmp_path / "model", shard_bytes="2kB", chunk_bytes="64K")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) == 2
    with fastio.open(tmp_path / "model") as reader:
        assert len(dict(reader.stream(memory_limit_bytes="1MiB"))) == 3
    roots = [tmp_path / "one", tmp_path / "two"]
    store = fastio.Store.create(roots, shard_bytes="64M", chunk_bytes=2.0**16)
    store.save(tensors)
    assert same_bytes(store.load(), {name: bytes(1000) for name in "abc"})


def test_nothing_else_is_an_option() -> None:
    with pytest.raises(TypeError, match=r"no threads; it has engine, cache, .*lanes"):
        fastio.Options(threads=4)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="no block_byte; did you mean block_bytes"):
        fastio.Options(block_byte=4)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="positional"):
        fastio.Options("pread")  # type: ignore[call-arg]


def _warned(variables: dict[str, str], code: str = "fastio.Options()") -> str:
    """The warnings of a process of its own, in which the code runs three times."""
    code = f"import fastio\nfor _ in range(3):\n    {code}\nprint('done')"
    child = run_python(code, env=variables)
    assert child.stdout == "done\n", child.stderr
    return child.stderr


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("FASTIO_BLOCKBYTES", "FASTIO_BLOCK_BYTES"),
        ("FASTIO_MEMORY_LIMIT", "FASTIO_MEMORY_LIMIT_BYTES"),
        ("FASTIO_HUGEPAGES", "FASTIO_HUGE_PAGES"),
        ("fastio_engine", "FASTIO_ENGINE"),
    ],
)
def test_an_unknown_variable_gets_one_warning_with_the_likely_name(
    variable: str, meant: str
) -> None:
    told = _warned({variable: "8M"})
    assert told.count(f"{variable} is no variable of fastio; did you mean {meant}") == 1


def test_an_unknown_variable_like_no_other_gets_a_warning_with_all_names() -> None:
    told = _warned({"FASTIO_QWXZ": "1"})
    assert all(f"FASTIO_{name.upper()}" in told for name in _FIELDS)


@pytest.mark.parametrize(
    "variables",
    [
        {f"FASTIO_{name.upper()}": "" for name in sorted(_FIELDS)},
        {"FASTIO_LANES": "2", "FASTIO_CUDA_LIBRARY": "/nowhere"},
        {"FASTIO_TEST_SEED": "3", "FASTIO_BENCH_DEVICE": "x", "FASTIO_GPU_REHEARSAL": "1"},
        {"FASTIO_QWXZ": "", "MY_FASTIO_ENGINE": "pread", "FASTIOS": "1"},
    ],
    ids=lambda variables: " ".join(variables)[:40],
)
def test_known_empty_and_foreign_variables_get_no_warning(
    variables: dict[str, str],
) -> None:
    assert _warned(variables) == ""


def test_importing_fastio_does_not_look_at_its_variables() -> None:
    assert _warned({"FASTIO_BLOCKBYTES": "8M"}, "pass") == ""


def test_every_variable_that_is_read_is_known() -> None:
    root = Path(__file__).parents[1]
    read: set[str] = set()
    for path in (root / "python" / "fastio").rglob("*.py"):
        read.update(re.findall(r'"(FASTIO_[A-Z_]+[A-Z])"', path.read_text(encoding="utf-8")))
    for path in (root / "csrc").glob("*.cc"):
        read.update(re.findall(r'getenv\("(\w+)"\)', path.read_text(encoding="utf-8")))
    assert "FASTIO_CUDA_LIBRARY" in read
    assert read <= {*variables.BESIDE_OPTIONS, *map(variables.variable_of, _FIELDS)}


def test_default_options_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_options() == fastio.Options()
    assert default_options() is default_options()
    monkeypatch.setenv("FASTIO_LANES", "7")
    assert default_options().lanes == 7
    monkeypatch.setenv("FASTIO_LANES", "none")
    with pytest.raises(ValueError, match="FASTIO_LANES"):
        default_options()
    monkeypatch.delenv("FASTIO_LANES")
    assert default_options() == fastio.Options()


@pytest.mark.parametrize("value", [1e300, 1.1e9, "1e10 s", 10**400, np.float64(1e99)])
def test_a_time_longer_than_anybody_can_wait_has_no_end(tmp_path: Path, value: Any) -> None:
    options = fastio.Options(root_timeout_s=value)
    assert options.root_timeout_s == math.inf
    tensors = {"a": np.zeros(10)}
    fastio.Store.create([tmp_path / "a", tmp_path / "b"]).save(tensors)
    with fastio.Store.open(tmp_path / "a", options=options) as store:
        assert store.save(tensors, options=options) == 2
        assert list(store.load(options=options)) == ["a"]
        assert store.verify(options=options).ok


@pytest.mark.parametrize("value", [math.nan, 0.0, -1, "-1e300"])
def test_the_error_for_an_invalid_time_names_the_valid_ones(
    monkeypatch: pytest.MonkeyPatch, value: Any
) -> None:
    expected = "expected seconds, more than 0, or inf"
    with pytest.raises(fastio.UsageError, match=f"^root_timeout_s=.*{expected}"):
        fastio.Options(root_timeout_s=value)
    monkeypatch.setenv("FASTIO_ROOT_TIMEOUT_S", str(value))
    with pytest.raises(fastio.UsageError, match=f"^FASTIO_ROOT_TIMEOUT_S=.*{expected}"):
        fastio.Options()
