"""Encoded tensors are loaded in every way that raw ones are; bad stored bytes reach no caller."""

import _thread
import contextlib
import gc
import itertools
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

import fastio
import testbed
import toy_format
from fastio.formats import known
from fastio.host import threads
from fastio.reading import fetch
from fastio.reading import into as reading_into
from fastio.reading import load as reading_load
from fastio.reading.ahead import concerns
from samples import bytes_of, eventually, flip, native_threads, open_files, write
from toy_format import Part, Tensor, deflated, in_rows, write_model, write_toy

_MIB = 2**20


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "FORMATS", (toy_format.FORMAT, *known.FORMATS))


@pytest.fixture
def model(tmp_path: Path) -> tuple[Path, dict[str, npt.NDArray[Any]]]:
    return write_model(tmp_path / "model.toy", is_sealed=True)


def _same(found: Mapping[str, Any], expected: Mapping[str, npt.NDArray[Any]]) -> bool:
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
    if shapes != {name: array.shape for name, array in expected.items()}:
        return False
    return all(bytes_of(tensor) == expected[name].tobytes() for name, tensor in found.items())


def _as_tensors(expected: Mapping[str, npt.NDArray[Any]], framework: str) -> dict[str, Any]:
    """Tensors of one framework in the dtypes of these; their values are others."""
    if framework == "numpy":
        return {name: np.full_like(array, 1) for name, array in expected.items()}
    dtypes = {"sevens": torch.uint8, "pairs": torch.float4_e2m1fn_x2, "bf16": torch.bfloat16}
    return {
        name: torch.empty(array.shape, dtype=dtypes[name])
        if name in dtypes
        else torch.from_numpy(np.full_like(array, 1))
        for name, array in expected.items()
    }


# ---- every way to load


@pytest.mark.parametrize("framework", ["numpy", "torch"])
@pytest.mark.parametrize("is_sealed", [True, False], ids=["sealed", "unsealed"])
@pytest.mark.parametrize("temperature", ["cold", "warm", "mapped"])
def test_encoded_and_raw_tensors_are_loaded_in_every_way(
    tmp_path: Path,
    engine: Any,
    cache: Any,
    framework: Any,
    is_sealed: bool,
    temperature: str,
) -> None:
    path, expected = write_model(tmp_path / "model.toy", is_sealed=is_sealed)
    if temperature == "cold":
        testbed.evict(path)
    mapping: Any = "auto" if temperature == "mapped" else "never"
    options = fastio.Options(
        engine=engine, cache="auto" if mapping == "auto" else cache, mapping=mapping
    )
    how: Any = {"framework": framework, "options": options}
    report = fastio.Report()
    loaded = fastio.load(path, **how, report=report)
    assert list(loaded) == list(expected)
    assert _same(loaded, expected)
    assert report.nbytes == sum(array.nbytes for array in expected.values())
    assert (report.chunks_verified > 0) is is_sealed
    assert report.engine == ("mmap" if mapping == "auto" else engine)
    assert _same(fastio.start_load(path, **how).wait(), expected)
    some = ["rows", "raw.large", "scalar"]
    assert list(fastio.load(path, **how, names=some)) == some
    tensors = _as_tensors(expected, framework)
    fastio.load_into(path, tensors, options=options)
    assert _same(tensors, expected)
    with fastio.open(path, **how) as reader:
        assert reader.keys() == list(expected)
        assert _same(reader.load(), expected)
        assert _same(reader.read(some), {name: expected[name] for name in some})
        assert _same({name: reader.tensor(name) for name in expected}, expected)
        streamed = list(reader.stream(memory_limit_bytes=_MIB))
        assert sorted(name for name, _ in streamed) == sorted(expected)
        assert _same(dict(streamed), expected)
    with fastio.safe_open(path, framework, options=options) as file:
        assert _same(file.get_tensors(), expected)
        assert bytes_of(file.get_tensor("boxes")) == expected["boxes"].tobytes()
        assert file.get_slice("rows").get_shape() == [1001, 333]


@pytest.mark.parametrize("name", ["deflated", "boxes", "rows", "raw.large"])
@pytest.mark.parametrize("limit", [None, 4 * _MIB])
def test_parts_of_encoded_tensors_are_those_of_numpy(
    model: tuple[Path, dict[str, npt.NDArray[Any]]], engine: Any, name: str, limit: int | None
) -> None:
    path, expected = model
    options = fastio.Options(engine=engine, mapping="never", memory_limit_bytes=limit)
    with fastio.open(path, options=options) as reader:
        for index in (
            np.s_[3],
            np.s_[17:200:9],
            np.s_[::-1],
            np.s_[:, 250:260],
            np.s_[-5:, ::7],
            np.s_[[5, 0, 299]],
            np.s_[10:10],
            np.s_[...],
            np.s_[None, 4, 5],
        ):
            assert np.array_equal(reader[name][index], expected[name][index]), index
        assert np.array_equal(reader.tensor("scalar"), expected["scalar"])
        assert reader["empty"][...].shape == (0, 7)


def test_parts_of_torch_and_of_a_slice_are_decoded_too(
    model: tuple[Path, dict[str, npt.NDArray[Any]]],
) -> None:
    path, expected = model
    with fastio.open(path, framework="torch") as reader:
        assert torch.equal(
            reader["rows"][100:300, 7], torch.from_numpy(expected["rows"][100:300, 7].copy())
        )
    with fastio.safe_open(path, "np") as file:
        assert np.array_equal(file.get_slice("boxes")[690:, 490:], expected["boxes"][690:, 490:])


def test_a_part_decodes_only_the_stored_parts_around_it(
    model: tuple[Path, dict[str, npt.NDArray[Any]]], engine: Any
) -> None:
    path, expected = model
    with fastio.open(path, options=fastio.Options(engine=engine, mapping="never")) as reader:
        assert np.array_equal(reader["rows"][95:180], expected["rows"][95:180])
        (found,) = reader.report.decoded
        assert (found.encoding, found.tensors, found.nbytes) == ("deflate", ("rows",), 90 * 333 * 2)
        assert reader.report.nbytes == expected["rows"][95:180].nbytes


def test_strided_memory_is_filled_and_tied_memory_compared(
    model: tuple[Path, dict[str, npt.NDArray[Any]]], engine: Any
) -> None:
    path, expected = model
    options = fastio.Options(engine=engine)
    turned = {"boxes": np.zeros((500, 700), np.float32).T, "rows": np.zeros((1001, 666), np.int16)}
    turned["rows"] = turned["rows"][::-1, ::2]
    fastio.load_into(path, turned, strict=False, options=options)
    assert all(np.array_equal(turned[name], expected[name]) for name in turned)
    tied = np.zeros((300, 1000), np.float32)
    write_toy(
        path,
        {
            name: Tensor("F32", (300, 1000), [Part("deflate", deflated(expected["deflated"]))])
            for name in ("one", "other")
        },
    )
    fastio.load_into(path, {"one": tied, "other": tied}, options=options)
    assert np.array_equal(tied, expected["deflated"])
    write_toy(
        path,
        {
            name: Tensor("F32", (3,), [Part("deflate", deflated(np.full(3, value, np.float32)))])
            for name, value in (("one", 1), ("other", 2))
        },
    )
    with pytest.raises(fastio.UsageError, match="other bytes for one"):
        fastio.load_into(path, {"one": tied[0, :3], "other": tied[0, :3]}, options=options)


def test_several_files_some_of_them_encoded_are_one_source(
    model: tuple[Path, dict[str, npt.NDArray[Any]]], engine: Any
) -> None:
    path, expected = model
    other = fastio.seal(write(path.with_name("other.safetensors"), {"t": ("F32", (70_000,))}))
    options = fastio.Options(engine=engine)
    loaded = fastio.load([other, path], options=options)
    assert list(loaded) == ["t", *expected]
    assert _same({name: loaded[name] for name in expected}, expected)
    assert np.array_equal(loaded["t"], fastio.load(other)["t"], equal_nan=True)


def test_parts_may_share_stored_bytes(tmp_path: Path, engine: Any) -> None:
    values = np.repeat(np.arange(5, dtype=np.int32), 1000)
    values[2000:3000] = values[4000:] = 1
    tensors = {name: Tensor("I32", (5000,), in_rows(values, 1000)) for name in ("one", "other")}
    path = write_toy(tmp_path / "model.toy", tensors, shares=True)
    assert path.stat().st_size < 5000
    options = fastio.Options(engine=engine)
    loaded = fastio.load(path, options=options)
    with fastio.open(path, options=options) as reader:
        for name in tensors:
            assert np.array_equal(loaded[name], values)
            assert np.array_equal(reader[name][500:4500], values[500:4500])


# ---- what the report says, and what is held meanwhile


def test_the_report_names_what_each_encoding_decoded(
    model: tuple[Path, dict[str, npt.NDArray[Any]]], engine: Any
) -> None:
    path, expected = model
    report = fastio.Report()
    options = fastio.Options(engine=engine)
    for load in (
        lambda: fastio.load(path, report=report, options=options),
        lambda: fastio.start_load(path, report=report, options=options).wait(),
        lambda: fastio.load_into(
            path, _as_tensors(expected, "numpy"), report=report, options=options
        ),
    ):
        load()
        decoded = {each.encoding: each for each in report.decoded}
        assert set(decoded) == {"deflate", "plain", "sevens"}
        native = set(expected).difference(*(each.tensors for each in report.decoded))
        assert native == {"raw.small", "raw.large", "raw.last"}
        assert sorted(decoded["plain"].tensors) == ["boxes"]
        assert (decoded["sevens"].stored_bytes, decoded["sevens"].nbytes) == (0, 15)
        assert decoded["plain"].stored_bytes == decoded["plain"].nbytes == 4 * 256 * 200 * 4
        assert decoded["deflate"].stored_bytes < decoded["deflate"].nbytes
        assert "decoded from deflate" in str(report)
    fastio.load(path, names=["raw.large"], report=report)
    assert report.decoded == ()


def test_progress_is_that_of_raw_and_decoded_bytes(
    model: tuple[Path, dict[str, npt.NDArray[Any]]],
    engine: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, expected = model
    total = sum(array.nbytes for array in expected.values())
    seen: list[tuple[int, int]] = []

    @contextlib.contextmanager
    def bar(source: str, nbytes: int, *, shown: bool) -> Iterator[Callable[[int, int], None]]:
        assert (source, nbytes, shown) == (str(path), total, True)
        yield lambda done, of: seen.append((done, of))

    monkeypatch.setattr(reading_load, "progress_bar", bar)
    monkeypatch.setattr(reading_into, "progress_bar", bar)
    options = fastio.Options(engine=engine)
    loads: list[Callable[[], Any]] = [
        lambda: fastio.load(path, progress=True, options=options),
        lambda: fastio.start_load(path, options=options).wait(progress=True),
        lambda: fastio.load_into(
            path, _as_tensors(expected, "numpy"), progress=True, options=options
        ),
    ]
    for load in loads:
        seen.clear()
        load()
        assert seen[-1] == (total, total)
        assert [done for done, _ in seen] == sorted(done for done, _ in seen)
        assert {of for _, of in seen} == {total}


def _many(path: Path, count: int, nbytes: int) -> Path:
    data = np.zeros(nbytes, np.uint8)
    return write_toy(
        path,
        {f"t{i}": Tensor("U8", (nbytes,), [Part("deflate", deflated(data))]) for i in range(count)},
        is_sealed=True,
    )


@pytest.mark.parametrize("window", [_MIB, 8 * _MIB])
def test_a_stream_decodes_within_its_window(
    tmp_path: Path, engine: Any, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _many(tmp_path / "model.toy", 64, _MIB // 2)
    stored_bytes: list[int] = []
    start = fetch.stream

    def watched(*args: Any, window_bytes: int, **more: Any) -> Any:
        stored_bytes.append(window_bytes)
        return start(*args, window_bytes=window_bytes, **more)

    monkeypatch.setattr(fetch, "stream", watched)
    with fastio.open(path, options=fastio.Options(engine=engine)) as reader:
        tracemalloc.start()
        try:
            for _, tensor in reader.stream(memory_limit_bytes=window):
                assert not tensor.any()
                del tensor
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert stored_bytes == [window // 2]
    # numpy's memory is traced: tensors that are decoded, and what zlib makes of one or two.
    assert peak < window + 2 * _MIB


def test_a_tensor_above_the_window_is_decoded_alone(tmp_path: Path, engine: Any) -> None:
    path = _many(tmp_path / "model.toy", 3, 4 * _MIB)
    with fastio.open(path, options=fastio.Options(engine=engine)) as reader:
        assert (
            sum(tensor.nbytes for _, tensor in reader.stream(memory_limit_bytes=_MIB)) == 12 * _MIB
        )


def test_a_memory_limit_is_for_stored_and_decoded_bytes(tmp_path: Path, engine: Any) -> None:
    path = _many(tmp_path / "model.toy", 8, _MIB)
    tensors = {f"t{i}": np.ones(_MIB, np.uint8) for i in range(8)}
    exact = fastio.Options(engine=engine, memory_limit_bytes=8 * _MIB)
    more = fastio.Options(engine=engine, memory_limit_bytes=9 * _MIB)
    loads: list[Callable[[fastio.Options], Any]] = [
        lambda options: fastio.load(path, options=options),
        lambda options: fastio.start_load(path, options=options).wait(),
    ]
    for load in loads:
        assert len(load(more)) == 8
        with pytest.raises(fastio.MemoryLimitError) as raised:
            load(exact)
        assert raised.value.asked_bytes > raised.value.limit_bytes == 8 * _MIB
    small = fastio.Options(engine=engine, memory_limit_bytes=_MIB)
    with pytest.raises(fastio.MemoryLimitError):
        fastio.load_into(path, tensors, options=small)
    assert all(tensor.all() for tensor in tensors.values())
    with fastio.open(path, options=small) as reader, pytest.raises(fastio.MemoryLimitError):
        reader.tensor("t1")
    with fastio.open(path, options=small) as reader, pytest.raises(fastio.MemoryLimitError):
        reader["t1"][5:]
    two = fastio.Options(engine=engine, memory_limit_bytes=2 * _MIB)
    fastio.load_into(path, tensors, options=two)
    assert not any(tensor.any() for tensor in tensors.values())


def test_without_threads_the_callers_decodes(
    model: tuple[Path, dict[str, npt.NDArray[Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, expected = model

    def refuse(*_: Any, **__: Any) -> Any:
        raise threads.NoThreadError("no")

    monkeypatch.setattr(threads, "start", refuse)
    assert _same(fastio.load(path), expected)
    handle = fastio.start_load(path)
    assert eventually(handle.done)
    assert _same(handle.wait(), expected)


def test_a_dropped_handle_and_a_dropped_stream_leave_nothing(
    model: tuple[Path, dict[str, npt.NDArray[Any]]], engine: Any
) -> None:
    path, _ = model
    fastio.load(path)
    gc.collect()
    files, running = open_files(), native_threads()
    options = fastio.Options(engine=engine)
    for _ in range(5):
        fastio.start_load(path, options=options)
        next(iter(fastio.open(path, options=options).stream(memory_limit_bytes=_MIB)))
    gc.collect()
    assert eventually(lambda: open_files() <= files)
    assert eventually(lambda: native_threads() <= running)


def test_a_dropped_handle_stops_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: Any
) -> None:
    nbytes, count = 256 * 1024, 24
    begun, goes_on = threading.Event(), threading.Event()
    decoded: list[int] = []

    class Slow(toy_format.Plain):
        def decode(self, stored: memoryview, out: memoryview) -> int:
            decoded.append(len(stored))
            begun.set()
            goes_on.wait(30)
            return super().decode(stored, out)

    monkeypatch.setitem(toy_format.ENCODINGS, "odd", Slow())
    parts = [Part("odd", bytes([at]) * nbytes) for at in range(count)]
    path = write_toy(
        tmp_path / "model.toy",
        {f"t{at}": Tensor("U8", (nbytes,), [part]) for at, part in enumerate(parts)},
    )
    # So little room for stored bytes that each region has one or two tensors.
    options = fastio.Options(engine=engine, memory_limit_bytes=count * nbytes + 2 * nbytes)
    handle = fastio.start_load(path, options=options)
    assert begun.wait(30)
    del handle
    gc.collect()
    goes_on.set()
    assert eventually(lambda: "fastio-decode" not in {t.name for t in threading.enumerate()})
    assert len(decoded) < count / 2


def test_an_interrupt_of_whoever_waits_stops_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: Any
) -> None:
    goes_on = threading.Event()

    class Interrupting(toy_format.Plain):
        def decode(self, stored: memoryview, out: memoryview) -> int:
            _thread.interrupt_main()
            goes_on.wait(30)
            return super().decode(stored, out)

    monkeypatch.setitem(toy_format.ENCODINGS, "odd", Interrupting())
    path = write_toy(tmp_path / "model.toy", {"t": Tensor("U8", (3,), [Part("odd", b"abc")])})
    with pytest.raises(KeyboardInterrupt):
        fastio.start_load(path, options=fastio.Options(engine=engine)).wait()
    goes_on.set()
    assert eventually(lambda: "fastio-decode" not in {t.name for t in threading.enumerate()})


def test_a_started_load_is_done_without_being_waited_for(
    model: tuple[Path, dict[str, npt.NDArray[Any]]], engine: Any
) -> None:
    path, expected = model
    handle = fastio.start_load(path, options=fastio.Options(engine=engine))
    assert eventually(handle.done)
    assert _same(handle.wait(), expected)


# ---- bad stored bytes

_GOOD = np.arange(50_000, dtype=np.int32)
_STORED = deflated(_GOOD)
_BAD: dict[str, tuple[str, bytes, Any, str]] = {
    "cut off": ("deflate", _STORED[:-300], None, "cut off"),
    "cut off at its end": ("deflate", _STORED[:-1], None, "cut off"),
    "a bomb": ("deflate", zlib.compress(bytes(2**26), 9), None, "more bytes come"),
    "one byte too many": ("deflate", deflated(_GOOD.tobytes() + b"x"), None, "more bytes come"),
    "too few": ("deflate", deflated(_GOOD[:-1]), None, "came to 199996 bytes"),
    "nothing": ("deflate", b"", None, "cut off"),
    "garbage": ("deflate", b"\xfe" * 500, None, "error: Error -3"),
    "bytes behind it": ("deflate", _STORED + b"xyz", None, "bytes follow"),
    "plain bytes of another count": ("plain", b"abc", None, "ValueError"),
    "a decoder that lies": ("odd", b"abc", toy_format.Lying(3), "came to 3 bytes"),
    "a decoder without a count": ("odd", b"abc", toy_format.Lying(None), "came to None bytes"),
    "a KeyError": ("odd", b"abc", toy_format.Raising(KeyError("odd")), "KeyError: 'odd'"),
    "an OSError": ("odd", b"abc", toy_format.Raising(OSError(5, "no")), "OSError"),
    "StopIteration": ("odd", b"abc", toy_format.Raising(StopIteration()), "StopIteration"),
    "a missing module": (
        "odd",
        b"abc",
        toy_format.Raising(ModuleNotFoundError("No module named 'zstandard'")),
        "needs a module: No module named 'zstandard'",
    ),
}


@pytest.fixture(params=_BAD)
def bad(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, str]:
    """A file whose second tensor cannot be decoded, and what is wrong with it."""
    encoding, stored, decoder, problem = _BAD[request.param]
    if decoder is not None:
        monkeypatch.setitem(toy_format.ENCODINGS, "odd", decoder)
    good = Part("deflate", _STORED)
    tensors = {
        "before": Tensor("I32", _GOOD.shape, [good]),
        "bad": Tensor("I32", _GOOD.shape, [Part(encoding, stored)]),
        "raw": Tensor("I32", _GOOD.shape, _GOOD.tobytes()),
        "behind": Tensor("I32", _GOOD.shape, [good]),
    }
    return write_toy(tmp_path / "bad.toy", tensors, is_sealed=True), problem


def test_what_cannot_be_decoded_is_refused_by_name_and_never_handed_out(
    bad: tuple[Path, str], engine: Any
) -> None:
    path, problem = bad
    options = fastio.Options(engine=engine)
    begin = fastio.open(path).info("bad").offset
    tensors = {name: np.ones(50_000, np.int32) for name in ("before", "bad", "raw", "behind")}
    report = fastio.Report()
    handle = fastio.start_load(path, options=options)
    with fastio.open(path, options=options) as reader:
        stream = reader.stream()
        assert np.array_equal(next(stream)[1], _GOOD)
        for read in (
            lambda: fastio.load(path, options=options, report=report),
            lambda: fastio.load(path, options=options, framework="torch"),
            lambda: fastio.load_into(path, tensors, options=options),
            handle.wait,
            handle.wait,
            lambda: next(stream),
            lambda: reader.tensor("bad"),
            lambda: reader["bad"][3:5],
            reader.load,
            lambda: fastio.safe_open(path, "np").get_tensors(),
        ):
            with pytest.raises(fastio.FormatError) as raised:
                read()
            message = str(raised.value)
            assert (raised.value.path, raised.value.offset) == (str(path), begin)
            assert "tensor 'bad'" in message
            assert problem in message
        assert list(stream) == []
        for name in ("before", "raw", "behind"):
            assert np.array_equal(reader.tensor(name), _GOOD)
    assert handle.done()
    assert report == fastio.Report()
    assert (tensors["bad"] == 1).all()


def test_tensors_that_were_filled_before_a_failure_are_named(tmp_path: Path) -> None:
    parts = {"a": _STORED, "b": _STORED[:-9], "c": _STORED}
    tensors = {
        name: Tensor("I32", (50_000,), [Part("deflate", data)]) for name, data in parts.items()
    }
    tensors["raw"] = Tensor("I32", (50_000,), _GOOD.tobytes())
    path = write_toy(tmp_path / "bad.toy", tensors)
    filled = {name: np.zeros(50_000, np.int32) for name in tensors}
    with pytest.raises(fastio.FormatError) as raised:
        fastio.load_into(path, filled)
    assert sorted(raised.value.complete or ()) == ["a", "raw"]
    assert np.array_equal(filled["a"], _GOOD)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
@pytest.mark.parametrize("count", [1, 40])
def test_an_exit_of_a_decoder_is_raised_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, count: int
) -> None:
    monkeypatch.setitem(toy_format.ENCODINGS, "odd", toy_format.Raising(error))
    parts = [Part("odd", bytes(2**15), (at,), (1,)) for at in range(count)]
    path = write_toy(tmp_path / "odd.toy", {"t": Tensor("U8", (count,), parts)})
    for read in (lambda: fastio.load(path), lambda: fastio.start_load(path).wait()):
        with pytest.raises(type(error)):
            read()


def test_a_decoder_without_memory_is_a_memory_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(toy_format.ENCODINGS, "odd", toy_format.Raising(MemoryError("none left")))
    path = write_toy(tmp_path / "odd.toy", {"t": Tensor("U8", (1,), [Part("odd", b"x")])})
    with pytest.raises(MemoryError, match=r"odd\.toy"):
        fastio.load(path)


def test_a_shape_beyond_all_memory_is_a_memory_error(tmp_path: Path) -> None:
    tensors = {"t": Tensor("U8", (2**55,), [Part("deflate", deflated(b"x"))])}
    path = write_toy(tmp_path / "odd.toy", tensors)
    with pytest.raises(MemoryError, match="tensor 't' of 36028797018963968 bytes"):
        fastio.load(path)
    with fastio.open(path) as reader, pytest.raises(MemoryError, match="tensor 't'"):
        reader["t"][5:7]


@pytest.mark.parametrize("start", [(4, 0), (0, 4), (9, 9)])
def test_what_lies_outside_of_a_tensor_is_dropped(tmp_path: Path, start: tuple[int, int]) -> None:
    parts = [Part("plain", b"x" * 16, start, (4, 4))]
    path = write_toy(tmp_path / "odd.toy", {"t": Tensor("U8", (4, 4), parts)})
    assert not fastio.load(path)["t"].any()


def test_a_box_of_other_axes_than_its_tensor_is_refused(tmp_path: Path) -> None:
    parts = [Part("plain", b"x" * 16, (0, 0, 0), (1, 4, 4))]
    path = write_toy(tmp_path / "odd.toy", {"t": Tensor("U8", (4, 4), parts)})
    with pytest.raises(fastio.FormatError, match="tensor 't'"):
        fastio.load(path)


# ---- damage that checksums find


def test_damaged_stored_bytes_are_found_before_they_are_decoded(
    tmp_path: Path, engine: Any, cache: Any
) -> None:
    random = np.random.default_rng(1).integers(0, 256, (6, 200_000), np.uint8)
    tensors = {
        f"t{i}": Tensor("U8", (200_000,), [Part("deflate", deflated(random[i]))]) for i in range(6)
    }
    path = write_toy(tmp_path / "model.toy", tensors, is_sealed=True)
    options = fastio.Options(engine=engine, cache=cache, mapping="never")
    flip(path, fastio.open(path).info("t4").offset + 150_000)
    for read in (
        lambda: fastio.load(path, options=options),
        lambda: fastio.start_load(path, options=options).wait(),
        lambda: fastio.load_into(
            path, {n: np.zeros(200_000, np.uint8) for n in tensors}, options=options
        ),
        lambda: fastio.open(path, options=options).tensor("t4"),
        lambda: fastio.open(path, options=options)["t4"][:-1],
    ):
        with pytest.raises(fastio.ChecksumError) as raised:
            read()
        assert raised.value.tensors == ("t4",)
    come = []
    with fastio.open(path, options=options) as reader:
        stream = reader.stream(memory_limit_bytes=_MIB)
        for name, tensor in itertools.islice(stream, 4):
            assert np.array_equal(tensor, random[int(name[1])])
            come.append(name)
        with pytest.raises(fastio.ChecksumError):
            next(stream)
    assert come == ["t0", "t1", "t2", "t3"]
    found = fastio.verify(path)
    assert not found.ok


def test_damage_between_the_parts_of_a_tensor_is_not_its_own(
    model: tuple[Path, dict[str, npt.NDArray[Any]]], engine: Any
) -> None:
    path, expected = model
    flip(path, fastio.open(path).info("raw.large").offset + 1_500_000)
    with fastio.open(path, options=fastio.Options(engine=engine, mapping="never")) as reader:
        (shard,) = reader._located.shards
        stream = reader.stream()
        come = dict(itertools.islice(stream, 4))
        assert _same(come, {name: expected[name] for name in list(expected)[:4]})
        with pytest.raises(fastio.ChecksumError) as raised:
            next(stream)
        assert raised.value.tensors == ("raw.large",)
        assert bytes_of(reader.tensor("boxes")) == expected["boxes"].tobytes()
    rows = range(len(shard.names))
    assert [shard.names[row] for row in rows if concerns(raised.value, shard, row)] == ["raw.large"]


def test_loops_over_raw_tensors_pass_encoded_ones(tmp_path: Path, engine: Any) -> None:
    nbytes = _MIB // 4
    raw = np.random.default_rng(2).integers(0, 256, (48, nbytes), np.uint8)
    tensors: dict[str, Tensor] = {}
    for i in range(48):
        data = raw[i].tobytes()
        is_encoded = i % 5 == 3
        parts = [Part("deflate", deflated(data))] if is_encoded else data
        tensors[f"t{i:02}"] = Tensor("U8", (nbytes,), parts)
    path = write_toy(tmp_path / "model.toy", tensors, is_sealed=True)
    # Regions of some tensors, which are released while the loop goes on.
    options = fastio.Options(engine=engine, mapping="never", memory_limit_bytes=4 * _MIB)
    with fastio.open(path, options=options) as reader:
        for i, name in enumerate(tensors):
            assert np.array_equal(reader.tensor(name), raw[i])
            assert (reader._access._ahead is not None) == (i > 0)
