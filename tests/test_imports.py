"""A call imports everything that it needs later at once: the process may then lose its rights, or
its view of its files.
"""

import os
import tempfile
from pathlib import Path

import pytest

import fastio
import testbed

_ALONE = """
import sys
from importlib.metadata import packages_distributions

depends = {"numpy", "ml_dtypes", "msgspec", "rich", "cffi", "_cffi_backend", "fastio"}
foreign = set(packages_distributions()) - depends

class Alone:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in foreign:
            raise ModuleNotFoundError(f"{name} is not installed", name=name)

assert "typing_extensions" in foreign and "torch" in foreign
for name in foreign & sys.modules.keys():
    del sys.modules[name]
sys.meta_path.insert(0, Alone())
import fastio, fastio.numpy, fastio.uring
"""


def test_fastio_needs_what_it_depends_on_and_nothing_else() -> None:
    testbed.run_python(_ALONE).check()


# After the call of `refuse`, no module can be imported.
_REFUSE = """
import os, sys, threading
import numpy, fastio

class Refusing:
    def find_spec(self, name, path=None, target=None):
        raise ImportError(f"{name} is imported late")

def refuse():
    sys.meta_path.insert(0, Refusing())

tensors = {"weight": numpy.arange(300_000.0), "bias": numpy.ones(3, numpy.float32)}
path = sys.argv[1]

def refused(kind, call, says):
    try:
        call()
    except kind as error:
        assert says in str(error), error
    else:
        raise AssertionError(f"no {kind}")
"""
_CALLS = """
for _ in range(2):  # the second time something is replaced
    fastio.save(tensors, path, metadata={"a": "b"})
    fastio.save(tensors, path + ".shards", shard_bytes=1000)
fastio.save(tensors, path + ".plain", checksums=False)
fastio.seal(path + ".plain", path + ".sealed")
for source in (path, path + ".shards", [path + ".sealed"]):
    assert fastio.load(source)["bias"][0] == 1
with fastio.open(path) as reader:
    assert list(reader["weight"][5:7]) == [5, 6]
    assert len(dict(reader.stream())) == len(reader.load()) == 2
    refused(fastio.TensorNotFoundError, lambda: reader["wieght"], "did you mean 'weight'")
    str(reader.report)
fastio.load_into(path, {name: numpy.empty_like(value) for name, value in tensors.items()})
with fastio.safe_open(path, "np") as file:
    assert file.get_slice("weight")[1:2][0] == 1
assert fastio.deserialize(fastio.serialize({})) == []
refused(FileNotFoundError, lambda: fastio.load(path + ".gone"), "gone")
refused(fastio.WriteError, lambda: fastio.save(tensors, path + ".shards"), "EISDIR")
refused(fastio.DtypeError, lambda: fastio.save({"a": numpy.array(["x"])}, path), "'a'")
damaged = bytearray(open(path, "rb").read())
damaged[-1] ^= 1
with open(path + ".damaged", "wb") as file:
    file.write(damaged)
refused(fastio.ChecksumError, lambda: fastio.load(path + ".damaged"), "is damaged")
fastio.engine_report()
print("done")
"""


def test_saves_loads_and_their_errors_import_nothing_late(tmp_path: Path) -> None:
    done = testbed.run_python(_REFUSE + "refuse()" + _CALLS, tmp_path / "model").check()
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_a_save_in_the_background_imports_nothing_late(tmp_path: Path) -> None:
    """The call imports its progress bar, too."""
    code = """
fastio._native.testing.set_completion_faults([(0, "late", 100)])
handles = [
    fastio.start_save(tensors, path, progress=True),
    fastio.start_save(tensors, path + ".shards", shard_bytes=1000),
]
refuse()
for handle in handles:
    assert fastio.load(handle.result(60))["bias"][0] == 1
fastio.start_save(tensors, path).result(60)
print("done")
"""
    done = testbed.run_python(_REFUSE + code, tmp_path / "model").check()
    assert done.stdout == "done\n"


def test_a_store_imports_nothing_late(tmp_path: Path) -> None:
    code = """
fastio.Store
refuse()
store = fastio.Store.create([path + "1", path + "2"])
store.save(tensors)
store.add("more", numpy.ones(2))
assert store.load()["bias"][0] == fastio.load(path + "1")["bias"][0] == 1
assert store.reader()["weight"][7] == 7
os.remove(next(os.scandir(path + "1/shards")).path)
assert store.load(on_damage="repair")["bias"][0] == 1
store.status(), store.verify(repair=True), store.gc(), store.rollback_to(store.generation)
refused(fastio.TensorNotFoundError, lambda: store.load(names=["bais"]), "did you mean 'bias'")
print("done")
"""
    done = testbed.run_python(_REFUSE + code, tmp_path / "root").check()
    assert done.stdout == "done\n"


@pytest.mark.root
def test_a_process_that_sees_nothing_but_an_empty_folder_saves_and_loads(tmp_path: Path) -> None:
    """Like a server that drops its rights: there is no Python, no /proc and no /dev."""
    inside = tmp_path / "root"
    inside.mkdir()
    os.chown(inside, 65534, 65534)
    code = """
os.chroot(sys.argv[2])
os.chdir("/")
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
path = "/new/model"
"""
    done = testbed.run_python(_REFUSE + code + _CALLS, "-", inside).check()
    assert (done.stdout, done.stderr) == ("done\n", "")
    assert fastio.load(inside / "new" / "model")["weight"][7] == 7


@pytest.mark.root
def test_a_process_gives_up_its_rights_while_it_saves_in_the_background() -> None:
    """If the kernel forbids links to files that root has opened (fs.protected_hardlinks), the error
    says so; there is no other obstacle.
    """
    code = """
os.chown(path, 65534, 65534)
fastio._native.testing.set_completion_faults([(0, "late", 100)])
handles = [fastio.start_save(tensors, path + "/model"),
           fastio.start_save(tensors, path + "/shards", shard_bytes=1000)]
os.chown(path + "/shards", 65534, 65534)
os.chdir(path)
refuse()
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
for handle in handles:
    error = handle.exception(60)
    if error is not None:
        assert isinstance(error, fastio.WriteError) and error.operation == "link", error
fastio.save(tensors, "mine")
print("done")
"""
    with tempfile.TemporaryDirectory() as folder:  # not below one that is closed to others
        done = testbed.run_python(_REFUSE + code, folder).check()
    assert done.stdout == "done\n"


@pytest.mark.parametrize("framework", ["torch", "fastio.torch"])
def test_a_framework_in_use_is_not_imported_late(tmp_path: Path, framework: str) -> None:
    pytest.importorskip("torch")
    code = (
        f"import sys, torch\nimport {framework}\n"
        + _REFUSE
        + """
tensors = {"a": torch.arange(5), "b": torch.ones(3, dtype=torch.bfloat16)}
refuse()
fastio.save(tensors, path)
assert fastio.load(path, framework="torch")["a"][3] == 3
print("done")
"""
    )
    done = testbed.run_python(code, tmp_path / "model").check()
    assert done.stdout == "done\n"
