"""The peak memory of a stream, a loop and load_into: by the kernel's counters in a child, and in a
control group that kills above its limit.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fastio
import testbed
from samples import write, write_even

_MIB = 1 << 20
_OVERHEAD_BYTES_MAX = 64 * _MIB
_CHILD = """
import gc, json, sys
import numpy as np
import fastio, fastio.frameworks.numpy

def status(field):
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

def reset_peak():
    gc.collect()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return status("VmRSS")

path, options, limit = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
options = fastio.Options(**options)
"""


def _run(path: Path, code: str, *, limit: int = 0, **options: Any) -> Any:
    result = testbed.run_python(_CHILD + code, path, json.dumps(options), str(limit))
    return json.loads(result.check().stdout)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed file of 320 MiB: 160 tensors."""
    return fastio.seal(write_even(tmp_path_factory.mktemp("many") / "model", 160, 2 * _MIB))


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed file of small tensors around one of 96 MiB."""
    spec = {f"{i:02}": ("U8", (96 * _MIB if i == 12 else 3 * _MIB,)) for i in range(24)}
    return fastio.seal(write(tmp_path_factory.mktemp("uneven") / "model", spec))


_STREAM = """
with fastio.open(path, options=options) as reader:
    before = reset_peak()
    total = 0
    for name, tensor in reader.stream(memory_limit_bytes=limit):
        total += int(tensor[-1])
    print(json.dumps([status("VmHWM") - before, total > 0, reader.report.bytes_read]))
"""


@pytest.mark.parametrize(("limit", "cache"), [(8 * _MIB, "bypass"), (64 * _MIB, "keep")])
def test_a_stream_stays_within_its_limit(many: Path, engine: str, cache: str, limit: int) -> None:
    peak, seen, read = _run(many, _STREAM, limit=limit, engine=engine, cache=cache, mapping="never")
    assert seen
    assert read >= 320 * _MIB
    assert peak <= limit + _OVERHEAD_BYTES_MAX


def test_a_tensor_above_the_limit_is_the_peak(uneven: Path, engine: str) -> None:
    peak, _, _ = _run(
        uneven, _STREAM, limit=16 * _MIB, engine=engine, cache="bypass", mapping="never"
    )
    assert 96 * _MIB <= peak <= 96 * _MIB + _OVERHEAD_BYTES_MAX


def test_only_the_tensors_that_the_caller_keeps_take_memory(many: Path, engine: str) -> None:
    code = """
with fastio.open(path, options=options) as reader:
    before = status("RssAnon")
    kept = [tensor for name, tensor in reader.stream(memory_limit_bytes=limit) if name[-1] == "7"]
gc.collect()
nbytes = sum(tensor.nbytes for tensor in kept)
grown = status("RssAnon") - before
del kept
gc.collect()
print(json.dumps([nbytes, grown, status("RssAnon") - before]))
"""
    options: dict[str, Any] = {
        "engine": engine,
        "cache": "bypass",
        "mapping": "never",
        "huge_pages": "off",
    }
    nbytes, grown, left = _run(many, code, limit=32 * _MIB, **options)
    assert nbytes == 16 * 2 * _MIB
    # Each tensor has its own partial pages at both ends.
    assert nbytes <= grown <= nbytes + 8 * _MIB
    assert left <= 6 * _MIB


_LOOP = """
with fastio.open(path, options=options) as reader:
    before = reset_peak()
    for name in reader:
        reader.tensor(name)
    print(json.dumps([status("VmHWM") - before, reader.report.bytes_read]))
"""


def test_a_loop_stays_within_the_limit_of_the_options(many: Path, engine: str) -> None:
    options: dict[str, Any] = {"engine": engine, "cache": "bypass", "mapping": "never"}
    peak, read = _run(many, _LOOP, **options, memory_limit_bytes=32 * _MIB)
    assert peak <= 32 * _MIB + _OVERHEAD_BYTES_MAX
    assert 320 * _MIB <= read <= 400 * _MIB  # one read ahead, no repeated ones


_INTO = """
tensors = {}
with fastio.open(path, options=options) as reader:
    for name in reader:
        memory = np.zeros(reader[name].nbytes + 4096, np.uint8)
        memory[:] = 1  # there, before it is filled
        if limit:
            skipped = (reader.info(name).offset - memory.ctypes.data) % 4096
        else:
            skipped = (reader.info(name).offset + 7 - memory.ctypes.data) % 4096
        tensors[name] = memory[skipped : skipped + reader[name].nbytes]
    del memory
before = reset_peak()
anonymous = status("RssAnon")
report = fastio.Report()
fastio.load_into(path, tensors, options=options, report=report)
print(json.dumps([status("VmHWM") - before, status("RssAnon") - anonymous, report.bytes_read]))
"""


@pytest.mark.parametrize(
    ("cache", "congruent"),
    [("bypass", True), ("bypass", False), ("keep", False)],
    ids=["straight", "staged", "through the page cache"],
)
def test_load_into_makes_no_second_copy(
    uneven: Path, engine: str, cache: str, congruent: bool
) -> None:
    options: dict[str, Any] = {"engine": engine, "cache": cache, "block_bytes": _MIB}
    peak, anonymous, read = _run(uneven, _INTO, limit=int(congruent), **options)
    assert read >= 160 * _MIB  # of 165
    assert peak <= 32 * _MIB
    assert anonymous <= 32 * _MIB


# ---- a group that kills ----

_GROUPS = Path("/sys/fs/cgroup/memory")
_HARD_LIMIT_BYTES = 192 * _MIB


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group with a hard limit on memory, page cache included; no swap."""
    testbed.require_root("makes a control group")
    if not (_GROUPS / "memory.limit_in_bytes").exists():
        pytest.skip("needs the memory controller of cgroup v1")
    made = _GROUPS / f"fastio-test-{os.getpid()}"
    made.mkdir()
    try:
        (made / "memory.limit_in_bytes").write_text(str(_HARD_LIMIT_BYTES), encoding="ascii")
        yield made
    finally:
        made.rmdir()


_KILLED = """
import os
with open(os.environ["GROUP"], "w") as file:
    file.write(str(os.getpid()))
total = 0
with fastio.open(path, options=options) as reader:
    if limit:
        for name, tensor in reader.stream(memory_limit_bytes=limit):
            total += tensor.nbytes
    else:
        total = sum(tensor.nbytes for tensor in reader.load().values())
print(json.dumps(total))
"""


@pytest.mark.root
def test_a_stream_survives_a_memory_limit_that_kills_a_load(
    many: Path, engine: str, group: Path
) -> None:
    def run(limit: int) -> testbed.ChildResult:
        options = json.dumps({"engine": engine, "cache": "bypass", "mapping": "never"})
        env = {"GROUP": str(group / "cgroup.procs")}
        return testbed.run_python(_CHILD + _KILLED, many, options, str(limit), env=env)

    assert json.loads(run(64 * _MIB).check().stdout) == 320 * _MIB
    assert run(0).returncode == -9
