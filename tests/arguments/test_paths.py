"""Paths are accepted as people type them; errors about missing ones suggest a remedy."""

import errno
import os
import pickle
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastio
import fastio.torch
from fastio.arguments import missing, paths
from samples import expected_bytes, same_bytes, write
from testbed import run_python

_TENSORS = {"w": np.arange(10, dtype=np.float32)}


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in the user's home, which is not the current folder."""
    home = tmp_path / "home"
    (tmp_path / "here").mkdir()
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path / "here")
    return write(home / "a model.safetensors", {"w": ("U8", (10,))}, seed=1)


def _load_into(source: Any) -> dict[str, Any]:
    tensors = {"w": np.zeros(10, np.uint8)}
    fastio.load_into(source, tensors)
    return tensors


def _sealed(source: Any) -> dict[str, Any]:
    return fastio.load(fastio.seal(source, "sealed.safetensors"))


_READERS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "load": fastio.load,
    "load, of a list": lambda source: fastio.load([source]),
    "open": lambda source: fastio.open(source).load(),
    "load_into": _load_into,
    "safe_open": lambda source: fastio.safe_open(source, "np").get_tensors(),
    "seal": _sealed,
    "load_file": fastio.torch.load_file,
}
_TYPED: dict[str, Callable[[Path], Any]] = {
    "~": lambda path: f"~/{path.name}",
    "~ in a Path": lambda path: Path("~") / path.name,
    "file:///": lambda path: path.as_uri(),
    "file://localhost/": lambda path: path.as_uri().replace("///", "//LocalHost/"),
    "file:/": lambda path: path.as_uri().replace("///", "/"),
    "file:/// in a Path": lambda path: Path(path.as_uri()),
    "FILE:///, not encoded": lambda path: f"FILE://{path}",
    "file:///, all of it encoded": lambda path: (
        "file:///" + "".join(f"%{byte:02x}" for byte in os.fsencode(path)[1:])
    ),
}


@pytest.mark.parametrize("reader", _READERS)
@pytest.mark.parametrize("typed", _TYPED)
def test_home_and_file_addresses_are_read(model: Path, reader: str, typed: str) -> None:
    assert same_bytes(_READERS[reader](_TYPED[typed](model)), expected_bytes(model))


def test_the_home_of_a_user_is_read(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expand = os.path.expanduser
    monkeypatch.setattr(
        os.path, "expanduser", lambda path: expand(str(path).replace("~somebody/", "~/", 1))
    )
    assert same_bytes(fastio.load(f"~somebody/{model.name}"), expected_bytes(model))


@pytest.mark.parametrize(
    "name",
    [
        "~",
        "~x",
        "~/x",
        "a*b",
        "[1]",
        "$HOME",
        "$HOME/x",
        "s3:/b/x",
        "file:/x",
        "C:\\x",
        "org/model",
    ],
)
def test_a_file_named_like_an_address_is_read_and_written(model: Path, name: str) -> None:
    path = Path.cwd() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, {"w": ("U8", (3,))}, seed=2)
    expected = expected_bytes(path)
    for reader in ("load", "open", "safe_open", "seal"):
        assert same_bytes(_READERS[reader](name), expected)
    if name != "~/x":  # writes to the user's home, not to a file inside it
        assert Path(fastio.save(_TENSORS, name)).resolve() == path
        assert same_bytes(fastio.load(path), {"w": _TENSORS["w"].tobytes()})


def test_saving_follows_home_and_file_addresses(model: Path) -> None:
    for number, typed in enumerate(_TYPED.values()):
        target = model.with_name(f"saved {number}.safetensors")
        fastio.save(_TENSORS, typed(target))
        assert same_bytes(fastio.load(target), {"w": _TENSORS["w"].tobytes()})
    fastio.save(_TENSORS, "~/folder", shard_bytes=2**20)
    fastio.torch.save_file({}, "~/empty.safetensors")
    fastio.start_save(_TENSORS, os.fsencode(model.with_name("bytes.safetensors"))).result()
    there = {path.name for path in model.parent.iterdir()}
    assert {"folder", "empty.safetensors", "bytes.safetensors"} <= there
    assert list(Path.cwd().iterdir()) == []


def test_a_store_follows_home_and_file_addresses(model: Path) -> None:
    roots = [model.parent / "one", model.parent / "two"]
    store = fastio.Store.create(["~/one", roots[1].as_uri()])
    store.save(_TENSORS)
    assert set(store.roots) == set(roots)
    for typed in ("~/one", {b"~/one"}, (each for each in roots), roots[0].as_uri()):
        assert same_bytes(fastio.Store.open(typed).load(), {"w": _TENSORS["w"].tobytes()})
    assert same_bytes(fastio.load("~/two"), {"w": _TENSORS["w"].tobytes()})


def test_a_reader_that_is_pickled_knows_where_home_was(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = [pickle.dumps(fastio.open(source)) for source in (f"~/{model.name}", {model.as_uri()})]
    monkeypatch.setenv("HOME", "/nowhere")
    for each in data:
        assert same_bytes(pickle.loads(each).load(), expected_bytes(model))


# ---- several


class _Where:
    def __init__(self, path: str | bytes) -> None:
        self.path = path

    def __fspath__(self) -> Any:
        return self.path


@pytest.mark.parametrize("one", [str, os.fsencode, Path, lambda p: _Where(os.fsencode(p)), np.str_])
def test_one_path_is_any_of_these(model: Path, one: Callable[[Any], Any]) -> None:
    for reader in ("load", "load, of a list", "open", "load_into", "seal"):
        assert same_bytes(_READERS[reader](one(model)), expected_bytes(model))


@pytest.mark.parametrize(
    ("several", "ordered"),
    [
        (list, True),
        (tuple, True),
        (deque, True),
        (iter, True),
        (lambda files: (file for file in files), True),
        (dict.fromkeys, False),
        (lambda files: dict.fromkeys(files).keys(), True),
        (lambda files: dict(enumerate(files)).values(), True),
        (np.array, True),
        (lambda files: [Path(files[0]), os.fsencode(files[1]), _Where(files[2])], True),
        (set, False),
        (frozenset, False),
        (lambda files: {Path(file) for file in files}, False),
    ],
)
def test_several_paths_are_any_iterable_of_them(
    tmp_path: Path, several: Callable[[list[str]], Any], ordered: bool
) -> None:
    files = [str(write(tmp_path / f"{n}.safetensors", {n: ("U8", (5,))}, seed=1)) for n in "bca"]
    if several == dict.fromkeys:
        with pytest.raises(TypeError, match="path"):
            fastio.load(several(files))
        return
    names = ["b", "c", "a"] if ordered else ["a", "b", "c"]
    assert list(fastio.load(several(files))) == names
    assert fastio.open(several(files)).keys() == names
    tensors = {name: np.zeros(5, np.uint8) for name in names}
    fastio.load_into(several(files), tensors)
    assert same_bytes(tensors, expected_bytes(*map(Path, files)))
    again = pickle.loads(pickle.dumps(fastio.open(several(files))))
    assert again.keys() == names


def test_the_result_of_glob_is_a_source(tmp_path: Path) -> None:
    for name in "ab":
        write(tmp_path / f"{name}.safetensors", {name: ("U8", (5,))}, seed=1)
    assert sorted(fastio.load(tmp_path.glob("*.safetensors"))) == ["a", "b"]


@pytest.mark.parametrize(
    "source",
    [
        *(None, 3, 1.5, {"a": 1}, [], (), set(), iter([]), ["a", None], [["a"]], [3], np.zeros(3)),
        *(bytearray(b"a"), memoryview(b"a"), np.array("a"), {"a.safetensors": "b"}),
    ],
    ids=lambda source: f"{type(source).__name__} {source}"[:9],
)
def test_a_wrong_source_is_refused_with_its_type(source: Any) -> None:
    for read in (fastio.load, fastio.open, _load_into):
        with pytest.raises((TypeError, ValueError), match=r"path|empty|0-d"):
            read(source)


def test_an_open_file_is_no_source(model: Path) -> None:
    with model.open("rb") as file, pytest.raises(TypeError, match=r"open file.*pass its name"):
        fastio.load(file)


def test_contents_of_a_file_are_not_taken_for_its_path(model: Path) -> None:
    with pytest.raises(ValueError, match=r"null byte.*fastio\.torch\.load") as raised:
        fastio.load(model.read_bytes())
    assert len(str(raised.value)) < 600


def test_a_file_that_is_listed_twice_is_named(model: Path) -> None:
    link = model.with_name("link.safetensors")
    link.symlink_to(model)
    twice: list[list[Any]] = [[model, model], [model, f"~/{model.name}"], [model, link]]
    for files in twice:
        with pytest.raises(fastio.FormatError, match="is given twice"):
            fastio.load(files)


# ---- missing paths

_HUB = r'snapshot_download\("org/model"\) gives a folder that load takes'
_MISSING = [
    ("org/model", _HUB),
    (Path("org/model"), _HUB),
    ("gpt2", r'snapshot_download\("gpt2"\)'),
    ("org/model/model.safetensors", r'hf_hub_download\("org/model", "model\.safetensors"\)'),
    ("hf://org/model", _HUB),
    ("hf://org/model@main/x.safetensors", r'hf_hub_download\("org/model", "x\.safetensors"\)'),
    ("https://huggingface.co/org/model", _HUB),
    ("https://huggingface.co/org/model/tree/main", _HUB),
    (
        "https://huggingface.co/org/model/resolve/main/unet/x.safetensors?download=true",
        r'hf_hub_download\("org/model", "unet/x\.safetensors"\)',
    ),
    ("https://example.com/x.safetensors", "https:// is an address.*curl"),
    (Path("https://example.com/x.safetensors"), "https:// is an address.*curl"),
    ("http://example.com/x", "http:// is an address"),
    ("hdfs://host/model", "hdfs:// is an address.*hdfs dfs -get.*or mount it"),
    (b"HDFS://host/model", "hdfs:// is an address.*hdfs dfs -get"),
    ("az://container/model", "az:// is an address.*azcopy"),
    ("abfss://container@account.dfs.core.windows.net/x", "abfss:// is an address"),
    ("memory://model", "memory:// is an address"),
    ("file://server/share/model.safetensors", "file: addresses of this host"),
    ("~no-such-user-here/model.safetensors", "no user 'no-such-user-here'"),
    ("model-*.safetensors", r"sorted\(glob\.glob\(path\)\) is a list that load takes"),
    ("model-0000?-of-00002.safetensors", "patterns are not expanded"),
    ("model-[12].safetensors", "patterns are not expanded"),
    ("$HOME/model.safetensors", r"\$HOME is not expanded: os\.path\.expandvars"),
    ("${MODELS}/model.safetensors", r"\$\{MODELS\} is not expanded"),
    ("C:\\models\\model.safetensors", "a path of Windows.*/mnt/c"),
    ("d:/models/model.safetensors", "a path of Windows"),
    ("", "the path is empty"),
    ("model.safetensors:w", r"'model\.safetensors' is there: names=\['w'\]"),
    ("model.safetensors#w", r"names=\['w'\]"),
    ("mdoel.safetensors", r"did you mean 'model\.safetensors'\?"),
    ("Model.SafeTensors", r"did you mean 'model\.safetensors'\?"),
    ("./model", r"did you mean 'model\.safetensors'\?"),
    ("model.safetensors\n", r"did you mean 'model\.safetensors'\?"),
    ("no/such/folder/x.safetensors", "there is no folder '.*/here/no'"),
    ("./nothing-like-it", "looked for in '.*/here'"),
    ("broken.safetensors", r"a link to 'gone/blob', which is not there"),
]


@pytest.fixture
def here(model: Path) -> Path:
    here = Path.cwd()
    model.rename(here / "model.safetensors")
    (here / "broken.safetensors").symlink_to("gone/blob")
    return here


@pytest.mark.parametrize(("source", "advice"), _MISSING, ids=lambda value: str(value)[:50])
def test_the_error_for_a_missing_source_suggests_a_remedy(
    here: Path, source: Any, advice: str
) -> None:
    reads: list[Callable[[Any], object]] = [fastio.load, fastio.open, _load_into, fastio.seal]
    reads.append(lambda s: fastio.load([s]))
    if not isinstance(source, bytes):  # safetensors takes none
        reads.append(lambda s: fastio.safe_open(s, "np"))
    for read in reads:
        with pytest.raises(FileNotFoundError, match=advice) as raised:
            read(source)
        assert raised.value.errno == errno.ENOENT
        assert raised.value.filename == os.fsdecode(source)
        assert str(raised.value).startswith("[Errno 2] No such file or directory; ")


def test_the_error_for_a_missing_store_suggests_a_remedy(here: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"No such store.*hdfs:// is an address"):
        fastio.Store.open(["hdfs://host/store"])
    with pytest.raises(fastio.WriteError, match="hdfs:// is an address"):
        fastio.Store.create(["hdfs://host/store"], replicas=1)
    assert not (here / "hdfs:").exists()


def test_a_tensor_behind_the_path_of_a_file_is_named(here: Path) -> None:
    with pytest.raises(fastio.ReadError, match=r"names=\['w'\] loads that tensor") as raised:
        fastio.load("model.safetensors/w")
    assert isinstance(raised.value, NotADirectoryError)


def test_advice_needs_no_current_folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> str:
        raise FileNotFoundError(errno.ENOENT, "gone")

    monkeypatch.setattr(os, "getcwd", gone)
    with pytest.raises(FileNotFoundError, match="No such file or directory"):
        fastio.load("nothing")


def test_a_message_does_not_grow_with_the_folder(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"model-{number:05d}-of-00300.safetensors").touch()
    with pytest.raises(FileNotFoundError) as raised:
        fastio.load(tmp_path / "model-00301-of-00300.safetensors")
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize(
    ("path", "advice"),
    [
        ("hdfs://host/model.safetensors", "hdfs:// is an address, and no path"),
        ("hf://org/model/x.safetensors", "hf:// is an address"),
        (Path("gs://bucket/model"), "gs:// is an address"),
        ("file://server/model.safetensors", "file: addresses of this host"),
        ("$OUT/model.safetensors", r"\$OUT is not expanded"),
        ("~no-such-user-here/model.safetensors", "no user"),
        ("D:\\model.safetensors", "a path of Windows"),
        ("", "the path is empty"),
    ],
)
@pytest.mark.parametrize(
    ("save", "how"),
    [(fastio.save, {}), (fastio.save, {"shard_bytes": 100}), (fastio.start_save, {})],
)
def test_a_path_that_means_no_file_gets_no_write(
    here: Path, path: Any, advice: str, save: Any, how: dict[str, Any]
) -> None:
    before = sorted(os.listdir())
    with pytest.raises(fastio.WriteError, match=advice) as raised:
        save(_TENSORS, path, **how)
    assert isinstance(raised.value, FileNotFoundError)
    assert raised.value.filename == str(path)
    assert sorted(os.listdir()) == before
    if path:
        with pytest.raises(fastio.WriteError, match=advice):
            fastio.seal("model.safetensors", path)
    assert sorted(os.listdir()) == before


def test_most_paths_ask_the_filesystem_nothing_before_they_are_opened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def asked(_: object) -> bool:
        raise AssertionError

    monkeypatch.setattr(os.path, "lexists", asked)
    monkeypatch.setattr(missing, "advice_to_write", asked)
    for path in ("model.safetensors", "folder/x", "/data/x y", "fp16.safetensors", "a*b/../c"):
        assert paths.path_of(path) == path
        assert paths.path_to_write(path) == Path(path)


@pytest.mark.parametrize("error", ["EACCES", "EPERM"])
def test_a_source_that_may_not_be_read_is_a_permission_error(tmp_path: Path, error: str) -> None:
    path = write(tmp_path / "model.safetensors", {"w": ("U8", (3,))}, seed=1)
    code = """
import sys, fastio
for read in (fastio.load, fastio.open, fastio.seal):
    try:
        read(sys.argv[1])
    except PermissionError as error:
        print(isinstance(error, fastio.ReadError), error.errno, error.filename)
"""
    told = run_python(code, path, inject=[f"openat:error={error}"], inject_path=path).check().stdout
    assert told.splitlines() == [f"True {getattr(errno, error)} {path}"] * 3


@pytest.mark.root
def test_a_place_that_may_not_be_written_to_is_a_permission_error(tmp_path: Path) -> None:
    path = write(tmp_path / "model.safetensors", {"w": ("U8", (3,))}, seed=1)
    before = path.read_bytes()
    code = """
import sys, fastio, numpy
tensors = {"w": numpy.zeros(3)}
path, folder = sys.argv[1:]
for write in (
    lambda: fastio.save(tensors, path),
    lambda: fastio.save(tensors, folder, shard_bytes=100),
    lambda: fastio.seal(path),
    lambda: fastio.Store.create([folder], replicas=1),
):
    try:
        write()
    except PermissionError as error:
        print(isinstance(error, fastio.WriteError), error.errno, error.filename)
"""
    told = run_python(code, path, tmp_path / "folder", uid=65534).check().stdout
    file, folder = (f"True {errno.EACCES} {each}" for each in (path, tmp_path / "folder"))
    assert told.splitlines() == [file, folder, file, folder]
    assert path.read_bytes() == before
