"""Readers in threads, children of a fork, spawned processes, pickles and DataLoader workers."""

import pickle
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import fastio
import testbed
from fastio import _native
from samples import (
    CHUNK_BYTES,
    bytes_of,
    eventually,
    expected_bytes,
    in_threads,
    native_threads,
    open_files,
    same_bytes,
    write_even,
)

_COUNT = 12
_MAPPINGS = pytest.mark.parametrize("mapping", ["auto", "never"])


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    return fastio.seal(write_even(tmp_path / "model", _COUNT, CHUNK_BYTES + 512))


@_MAPPINGS
def test_many_threads_read_from_one_reader_at_once(sealed: Path, engine: Any, mapping: Any) -> None:
    expected = expected_bytes(sealed)
    options = fastio.Options(engine=engine, cache="keep", mapping=mapping)
    with testbed.kept_warm(sealed), fastio.open(sealed, options=options) as reader:

        def work(i: int) -> bool:
            if i % 4 == 0:
                return same_bytes({name: reader.tensor(name) for name in reader}, expected)
            if i % 4 == 1:
                return same_bytes(dict(reader.stream(memory_limit_bytes=2 * CHUNK_BYTES)), expected)
            if i % 4 == 2:
                return all(
                    bytes_of(reader[name][i * 1000 : -1]) == expected[name][i * 1000 : -1]
                    for name in sorted(expected)
                )
            return same_bytes(reader.load(), expected)

        for _ in range(2):
            assert in_threads(8, work) == [True] * 8


def test_counters_of_several_threads_lose_no_bytes(
    sealed: Path, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastio.reading.chunks.CACHED_BYTES_MAX", 0)  # each part causes reads
    options = fastio.Options(engine=engine, cache="bypass", mapping="never")
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with fastio.open(sealed, options=options) as reader:
            in_threads(8, lambda i: [reader[f"t{i}"][5:9] for _ in range(20)])
            assert reader.report.chunks_verified == 8 * 20
            assert reader.report.bytes_read == 8 * 20 * CHUNK_BYTES
    finally:
        sys.setswitchinterval(interval)


@_MAPPINGS
def test_closing_a_reader_in_use_has_its_own_error(sealed: Path, engine: Any, mapping: Any) -> None:
    expected = expected_bytes(sealed)
    options = fastio.Options(engine=engine, cache="keep", mapping=mapping)
    files = open_files()
    for _ in range(10):
        reader = fastio.open(sealed, options=options)
        begun = threading.Event()

        def work(i: int, reader: fastio.Reader = reader, begun: threading.Event = begun) -> bool:
            if i == 0:
                begun.wait()
                reader.close()
                return True
            try:
                while True:
                    name = f"t{i % _COUNT}"
                    tensor = reader.tensor(name) if i % 2 else reader[name][::3]
                    assert bytes_of(tensor) == expected[name][:: 1 if i % 2 else 3]
                    begun.set()
            except fastio.UsageError:
                return True

        assert in_threads(5, work) == [True] * 5
    del reader, work
    assert eventually(lambda: open_files() <= files)


# argv: the file, engine, mapping. A child ends with 0 on success.
_CHILD = """
import os, sys, threading
import fastio

path, engine, mapping = sys.argv[1:]
options = fastio.Options(engine=engine, cache="keep", mapping=mapping)
expected = {n: t.tobytes() for n, t in fastio.load(path, options=options).items()}

def in_child(check):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if check() else 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def looped(reader):
    return {n: reader.tensor(n).tobytes() for n in reader} == expected

def streamed(reader):
    return {n: t.tobytes() for n, t in reader.stream(memory_limit_bytes=4 << 20)} == expected

def cut(reader):
    return all(reader[n][7:99:3].tobytes() == expected[n][7:99:3] for n in reader)

def all_ways(reader):
    return looped(reader) and streamed(reader) and cut(reader)
"""


def _run(path: Path, engine: str, mapping: str, code: str) -> str:
    with testbed.kept_warm(path):
        result = testbed.run_python(_CHILD + code, path, engine, mapping, timeout_s=60)
    return result.check().stdout


@_MAPPINGS
def test_parent_and_child_read_on_after_a_fork(sealed: Path, engine: str, mapping: str) -> None:
    code = """
with fastio.open(path, options=options) as reader:
    assert in_child(lambda: all_ways(reader)) == 0
    half = {name: reader.tensor(name).tobytes() for name in reader.keys()[:5]}
    stream = reader.stream(memory_limit_bytes=4 << 20)
    first = [next(stream) for _ in range(3)]
    # The child has no threads that read ahead, and does without.
    assert in_child(lambda: all_ways(reader)) == 0
    assert in_child(lambda: reader.close() is None) == 0
    assert in_child(lambda: in_child(lambda: all_ways(reader)) == 0 and all_ways(reader)) == 0
    # Here all goes on.
    rest = {name: reader.tensor(name).tobytes() for name in reader.keys()[5:]}
    assert half | rest == expected
    assert {n: t.tobytes() for n, t in [*first, *stream]} == expected
"""
    _run(sealed, engine, mapping, code)


@_MAPPINGS
def test_a_fork_while_other_threads_read_harms_neither_side(
    sealed: Path, engine: str, mapping: str
) -> None:
    code = """
with fastio.open(path, options=options) as reader:
    going, wrong = True, []
    def go_on():
        while going:
            if not (looped(reader) and cut(reader)):
                wrong.append(1)
    threads = [threading.Thread(target=go_on) for _ in range(2)]
    for thread in threads: thread.start()
    codes = [in_child(lambda: all_ways(reader) and reader.report.files == 1) for _ in range(5)]
    going = False
    for thread in threads: thread.join()
    assert codes == [0] * 5 and not wrong, (codes, wrong)
"""
    _run(sealed, engine, mapping, code)


def test_a_stream_that_went_through_a_fork_is_an_error_in_the_child_only(
    sealed: Path, engine: str
) -> None:
    code = """
with fastio.open(path, options=options) as reader:
    stream = reader.stream(memory_limit_bytes=4 << 20)
    got = [next(stream)]
    def in_the_child():
        try:
            for _ in stream:
                pass
        except RuntimeError as error:
            return "fork" in str(error) and list(stream) == []
    assert in_child(in_the_child) == 0
    assert in_child(lambda: stream.close() is None) == 0
    assert {n: t.tobytes() for n, t in [*got, *stream]} == expected
"""
    _run(sealed, engine, "never", code)


def test_a_childs_writes_do_not_reach_its_parent(sealed: Path, engine: str) -> None:
    code = """
with fastio.open(path, options=options) as reader:
    tensors = [reader.tensor(name) for name in reader]
    def scribble():
        for tensor in tensors:
            tensor[...] = 0
        return looped(reader)
    assert in_child(scribble) == 0
    assert [t.tobytes() for t in tensors] == list(expected.values())
"""
    for mapping in ("auto", "never"):
        _run(sealed, engine, mapping, code)


def test_a_pickle_carries_paths_and_options_and_no_descriptor(
    sealed: Path, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = expected_bytes(sealed)
    options = fastio.Options(engine=engine, cache="bypass", mapping="never", lanes=3)
    monkeypatch.chdir(sealed.parent)
    with fastio.open(sealed.name, framework="torch", verify="require", options=options) as reader:
        reader.tensor("t0")
        files = open_files()
        data = pickle.dumps(reader)
        assert open_files() <= files
        assert len(data) < 1000
    monkeypatch.chdir("/")
    with pickle.loads(data) as again:
        assert same_bytes(again.load(), expected)
        assert isinstance(again.tensor("t3"), torch.Tensor)
        assert again.report.engine == engine
    with fastio.open([sealed], verify=False) as reader:
        assert pickle.loads(pickle.dumps(reader)).report.unverified == (str(sealed),)
    sealed.unlink()
    with pytest.raises(FileNotFoundError):
        pickle.loads(data)


class _Rows(Dataset[Any]):
    """Sums of rows of a reader's tensors, with the process that read them."""

    def __init__(self, reader: fastio.Reader) -> None:
        self.reader = reader

    def __len__(self) -> int:
        return 2 * _COUNT

    def __getitem__(self, index: int) -> Any:
        name = f"t{index % _COUNT}"
        part = self.reader.tensor(name) if index < _COUNT else self.reader[name][100:90_000]
        return part.to(torch.int64).sum()


# Two warnings are torch's own, about a fork beside threads, in some releases of Python.
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize(("start", "workers"), [("fork", 2), ("spawn", 1)])
def test_workers_of_a_data_loader_read_from_the_reader_they_are_given(
    sealed: Path, engine: Any, start: str, workers: int
) -> None:
    options = fastio.Options(engine=engine, mapping="never")
    threads = native_threads()
    with fastio.open(sealed, framework="torch", options=options) as reader:
        rows = _Rows(reader)
        expected = [int(rows[i]) for i in range(len(rows))]
        loader: Any = DataLoader(
            rows, batch_size=None, num_workers=workers, multiprocessing_context=start, timeout=60
        )
        assert [int(row) for row in loader] == expected
        assert bytes_of(reader.tensor("t1")) == expected_bytes(sealed)["t1"]
    del loader
    assert eventually(lambda: native_threads() <= threads + 1)
    assert _native.testing.abandoned_bytes() == 0
