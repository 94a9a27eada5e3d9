"""Optional system calls may be refused: files and tensors are the same without them."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

import fastio
import testbed

# System calls that a seccomp profile or an old kernel refuses; each with its fallback.
_OPTIONAL = {
    "cachestat": "what is in the page cache",
    "fadvise64": "advice",
    "fallocate": "space set aside",
    "flock": "locks of temporary files and of a store",
    "fstatfs": "the name of a filesystem",
    "getcpu": "nothing",
    "getrusage": "whether a page was there before",
    "io_uring_setup": "io_uring",
    "io_uring_enter": "io_uring, after its set-up",
    "io_uring_register": "fixed buffers",
    "madvise": "advice, and mappings brought in at once",
    "membarrier": "nothing",
    "memfd_create": "a trial of io_uring",
    "mincore": "what is in the page cache",
    "preadv2": "reads from the page cache alone",
    "prlimit64": "limits",
    "sched_getaffinity": "usable cores",
    "statx": "the alignment of direct I/O",
}

_USE = """
import hashlib, sys
from pathlib import Path
import numpy as np
import fastio

folder = Path(sys.argv[1])
tensors = {
    f"t{i}": np.random.default_rng(i).integers(0, 256, 300_000 + i, np.uint8) for i in range(9)
}

def same(found):
    assert found.keys() == tensors.keys()
    assert all(np.array_equal(found[name], tensors[name]) for name in tensors)

fastio.save(tensors, folder / "file")
fastio.start_save(tensors, folder / "background").result()
fastio.save(tensors, folder / "shards", shard_bytes=600_000)
fastio.save(tensors, folder / "plain", checksums=False)
fastio.seal(folder / "plain", folder / "sealed")
for source in ("file", "background", "shards", "plain", "sealed"):
    same(fastio.load(folder / source))
for engine in ("auto", "pread"):
    for cache in ("auto", "bypass", "keep"):
        options = fastio.Options(engine=engine, cache=cache, mapping="never")
        same(fastio.load(folder / "file", options=options))
with fastio.open(folder / "shards") as reader:
    same(dict(reader.stream(memory_limit_bytes=4 << 20)))
    assert np.array_equal(reader["t3"][5:100], tensors["t3"][5:100])
into = {name: np.zeros_like(tensor) for name, tensor in tensors.items()}
fastio.load_into(folder / "file", into)
same(into)
print(hashlib.sha256((folder / "file").read_bytes()).hexdigest())
"""


@pytest.mark.parametrize("refusal", ["EPERM", "ENOSYS"])
@pytest.mark.parametrize("call", _OPTIONAL)
def test_a_call_that_only_helps_may_be_refused(tmp_path: Path, call: str, refusal: str) -> None:
    found = testbed.run_python(_USE, tmp_path, refuse={call: refusal}).check().stdout.split()[-1]
    tensors = {
        f"t{i}": np.random.default_rng(i).integers(0, 256, 300_000 + i, np.uint8) for i in range(9)
    }
    fastio.save(tensors, tmp_path / "expected")
    assert hashlib.sha256((tmp_path / "expected").read_bytes()).hexdigest() == found


def test_all_of_them_may_be_refused_together(tmp_path: Path) -> None:
    testbed.run_python(_USE, tmp_path, refuse=dict.fromkeys(_OPTIONAL, "EPERM")).check()


@pytest.mark.parametrize("call", ["fallocate", "sched_getaffinity", "prlimit64", "statx"])
def test_a_store_does_without_a_call_that_only_helps(tmp_path: Path, call: str) -> None:
    code = """
import sys
import numpy as np
import fastio
store = fastio.Store.create([f"{sys.argv[1]}/a", f"{sys.argv[1]}/b"], replicas=2)
store.save({"x": np.arange(100_000)})
assert (fastio.load(sys.argv[1] + "/a")["x"] == np.arange(100_000)).all()
"""
    testbed.run_python(code, tmp_path, refuse={call: "EPERM"}).check()
