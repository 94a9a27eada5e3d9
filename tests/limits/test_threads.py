"""In a process that gets no more threads, the caller's thread does the work, and nothing hangs."""

import tempfile
from pathlib import Path

import numpy as np
import pytest

import fastio
import testbed

_NO_THREADS = {"clone": "EAGAIN", "clone3": "EAGAIN"}
_COUNT = 12
_BEGIN = """
import sys
from pathlib import Path
import numpy as np
import fastio, fastio.numpy

path = Path(sys.argv[1])
expected = {f"t{i:02}": np.full(1 << 20, i, np.uint8) for i in range(12)}

def same(found):
    found = dict(found)
    assert list(found) == list(expected), list(found)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
"""


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    fastio.save({f"t{i:02}": np.full(1 << 20, i, np.uint8) for i in range(_COUNT)}, path)
    testbed.evict(path)
    return path


def _runs(code: str, *args: str | Path) -> testbed.ChildResult:
    # numpy's linear algebra would not start without threads.
    env = {"OPENBLAS_NUM_THREADS": "1"}
    result = testbed.run_python(_BEGIN + code, *args, refuse=_NO_THREADS, env=env, timeout_s=60)
    return result.check()


@pytest.mark.parametrize("engine", ["uring", "pread"])
@pytest.mark.parametrize("cache", ["bypass", "keep"])
@pytest.mark.parametrize("limit", [1 << 20, 3 << 20, 8 << 20, None])
def test_a_stream_goes_on_step_by_step(
    sealed: Path, engine: str, cache: str, limit: int | None
) -> None:
    _runs(
        f"""
options = fastio.Options(engine={engine!r}, cache={cache!r}, mapping="never")
for _ in range(2):
    with fastio.open(path, options=options) as reader:
        same(reader.stream(memory_limit_bytes={limit}))
        assert "no thread" in " ".join(reader.report.fallbacks)
""",
        sealed,
    )


def test_a_stream_left_midway_leaves_no_threads(sealed: Path) -> None:
    _runs(
        """
options = fastio.Options(cache="bypass")
for count in (0, 1, 5):
    stream = fastio.open(path, options=options).stream(memory_limit_bytes=4 << 20)
    for _ in range(count):
        next(stream)
    stream.close()
assert fastio._native.testing.abandoned_bytes() == 0
same(fastio.load(path))
""",
        sealed,
    )


def test_a_stream_raises_at_the_damaged_tensor(sealed: Path) -> None:
    with open(sealed, "r+b") as file:
        file.seek(6 * (1 << 20) + 5000)
        file.write(b"damage")
    _runs(
        """
found = []
try:
    for name, tensor in fastio.open(path).stream(memory_limit_bytes=2 << 20):
        found.append(name)
except fastio.ChecksumError as error:
    assert error.chunk in (5, 6)
    assert found == [f"t{i:02}" for i in range(error.chunk)]
else:
    raise AssertionError("the damage was not seen")
""",
        sealed,
    )


@pytest.mark.parametrize("limit", [4 << 20, None])
def test_a_loop_over_names_goes_on(sealed: Path, limit: int | None) -> None:
    _runs(
        f"""
options = fastio.Options(memory_limit_bytes={limit}, mapping="never")
with fastio.safe_open(path, "np", options=options) as file:
    same((name, file.get_tensor(name)) for name in file.keys())
""",
        sealed,
    )


@pytest.mark.parametrize("engine", ["uring", "pread"])
def test_a_root_that_hangs_is_not_waited_for(
    tmp_path: Path, tmpfs: testbed.Mount, engine: str
) -> None:
    with tempfile.TemporaryDirectory(dir=tmpfs.path) as other:
        _runs(
            f"""
roots = [path / "root0", Path(sys.argv[2]) / "root1"]
options = fastio.Options(engine={engine!r}, cache="bypass", block_bytes=1 << 16, root_timeout_s=1.5)
store = fastio.Store.create(roots, replicas=2, shard_bytes=4 << 20)
store.save(expected)
into = {{name: np.zeros_like(tensor) for name, tensor in expected.items()}}
ways = [
    lambda: store.load(options=options),
    lambda: sorted(dict(store.stream(options=options, memory_limit_bytes=4 << 20)).items()),
    lambda: store.load_into(into, options=options) or into,
]
for way in ways:
    fastio._native.testing.set_completion_faults([(1, "never", 0)])
    same(way())
    assert fastio._native.testing.abandoned_bytes() > 0
fastio._native.testing.set_completion_faults([])
""",
            tmp_path,
            other,
        )


@pytest.mark.parametrize("engine", ["uring", "pread"])
@pytest.mark.parametrize("cache", ["bypass", "keep"])
def test_every_other_load_and_save_goes_on(sealed: Path, engine: str, cache: str) -> None:
    _runs(
        f"""
options = fastio.Options(engine={engine!r}, cache={cache!r}, mapping="never")
same(fastio.load(path, options=options))
same(fastio.load(path, options=options, progress=True))
into = {{name: np.zeros_like(tensor) for name, tensor in expected.items()}}
fastio.load_into(path, into, options=options)
same(into)
again = path.with_name("again")
report = fastio.Report()
fastio.save(expected, again, options=options, report=report, progress=True)
assert "no thread" in " ".join(report.fallbacks)
same(fastio.load(again))
fastio.save(expected, path.with_name("shards"), shard_bytes=3 << 20, options=options)
same(fastio.load(path.with_name("shards")))
same(fastio.load(fastio.seal(path, path.with_name("sealed"))))
""",
        sealed,
    )


@pytest.mark.parametrize("snapshot", ["copy", "borrow"])
def test_a_background_save_is_done_when_it_returns(sealed: Path, snapshot: str) -> None:
    result = _runs(
        f"""
handle = fastio.start_save(expected, path, snapshot={snapshot!r})
assert handle.done() and handle.wait_released(0) and handle.result() == path
same(fastio.load(path))
fastio._native.testing.set_completion_faults([(0, "error", 28)])
refused = fastio.start_save(expected, path, snapshot={snapshot!r})
assert isinstance(refused.exception(), fastio.WriteError)
""",
        sealed,
    )
    assert "is saved before start_save() returns" in result.stderr


def test_a_store_is_written_and_read(tmp_path: Path) -> None:
    _runs(
        """
roots = [path / "a", path / "b", path / "c"]
store = fastio.Store.create(roots, replicas=2)
store.save(expected)
store.save(expected)
same(sorted(fastio.load(roots[0]).items()))
same(sorted(fastio.open(roots[0]).stream(memory_limit_bytes=8 << 20)))
""",
        tmp_path,
    )


@pytest.mark.root
@pytest.mark.parametrize("more", range(4))
@pytest.mark.parametrize("cache", ["bypass", "keep"])
def test_a_limit_of_threads_that_also_binds_the_kernels_own(
    tmp_path: Path, more: int, cache: str
) -> None:
    # Some io_uring requests wait for threads of io_uring, which count against RLIMIT_NPROC.
    tmp_path.chmod(0o777)
    path = tmp_path / "model"
    fastio.save({f"t{i:02}": np.full(1 << 20, i, np.uint8) for i in range(_COUNT)}, path)
    path.chmod(0o644)
    code = f"""
import re, resource
threads = int(re.search("Threads:\\\\s+(\\\\d+)", Path("/proc/self/status").read_text())[1])
resource.setrlimit(resource.RLIMIT_NPROC, (threads + {more}, threads + {more}))
options = fastio.Options(engine="uring", cache={cache!r}, mapping="never")
try:
    same(fastio.load(path, options=options))
except fastio.ReadError as error:
    assert error.operation == "io_uring_setup"
else:
    same(fastio.open(path, options=options).stream(memory_limit_bytes=4 << 20))
fastio.save(expected, sys.argv[2] + "/again", options=options)
"""
    place = tmp_path / "place"
    place.mkdir()
    place.chmod(0o777)
    testbed.run_python(_BEGIN + code, path, place, uid=64997, timeout_s=60).check()
    assert len(fastio.load(place / "again")) == _COUNT
