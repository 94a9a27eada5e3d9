"""The memory of a save besides the tensors, by the kernel's counters in a child."""

import json
from pathlib import Path
from typing import Any

import pytest

import testbed

_MIB = 1 << 20
_CHILD = """
import gc, json, sys
import numpy as np
import fastio

def anonymous():
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

def peak():
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

path, options, layout, how = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3], sys.argv[4]
options = fastio.Options(**options)
base = np.ones((80, 2**20), np.float32)
array = {"as they are": base, "transposed": base.T, "big-endian": base.view(">f4")}[layout]
fastio.save({"warm": np.ones(2**18)}, path, options=options)
gc.collect()
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
before = peak()
if how == "wait":
    fastio.save({"a": array}, path, options=options)
elif how == "borrow":
    fastio.start_save({"a": array}, path, snapshot="borrow", options=options).result()
else:
    fastio.save({"a": array}, path, shard_bytes=1, options=options)
print(json.dumps(peak() - before))
"""


def _taken(path: Path, layout: str, how: str = "wait", **options: Any) -> int:
    done = testbed.run_python(_CHILD, path, json.dumps(options), layout, how)
    taken: int = json.loads(done.check().stdout)
    return taken


@pytest.mark.parametrize("layout", ["as they are", "transposed", "big-endian"])
@pytest.mark.parametrize("cache", ["bypass", "keep"])
def test_a_save_takes_at_most_64_mib(tmp_path: Path, engine: str, layout: str, cache: str) -> None:
    taken = _taken(tmp_path / "a", layout, engine=engine, cache=cache)
    print(f"{taken / _MIB:.1f} MiB")
    assert taken <= 64 * _MIB


def test_many_lanes_take_no_more(tmp_path: Path, engine: str) -> None:
    taken = _taken(tmp_path / "a", "transposed", engine=engine, lanes=16, queue_depth=64)
    assert taken <= 64 * _MIB


def test_one_in_the_background_takes_no_more(tmp_path: Path) -> None:
    assert _taken(tmp_path / "a", "transposed", "borrow") <= 64 * _MIB


@pytest.mark.parametrize("limit", [4 * _MIB, 16 * _MIB])
def test_a_limit_holds(tmp_path: Path, engine: str, limit: int) -> None:
    few = _taken(tmp_path / "a", "transposed", engine=engine, memory_limit_bytes=limit)
    # Besides the staging: stacks of threads, a ring, and the digests.
    assert few <= limit + 8 * _MIB
