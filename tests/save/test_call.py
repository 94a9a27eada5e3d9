"""What a save decides when it is called: where it writes, with which mode, and whether it can."""

import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastio
import testbed
from fastio import folders as folders_module
from load.samples import elsewhere
from testbed.targets import refuse_nameless_files

_NAME = "model.safetensors"


def _tensors(mark: int) -> dict[str, Any]:
    return {f"t{i}": np.full(10_000, mark, np.float32) for i in range(4)}


def _mark(path: Path) -> int:
    (mark,) = {int(each) for tensor in fastio.load(path).values() for each in np.unique(tensor)}
    return mark


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The one that the process is in, and another one."""
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    monkeypatch.chdir(one)
    return one, other


# ---- relative paths


@pytest.mark.parametrize("snapshot", ["copy", "borrow"])
@pytest.mark.parametrize("shard_bytes", [None, 50_000])
def test_a_save_in_the_background_goes_where_its_path_led(
    folders: tuple[Path, Path],
    faults: Callable[..., None],
    snapshot: Any,
    shard_bytes: int | None,
) -> None:
    one, other = folders
    precious = fastio.save(_tensors(7), other / _NAME, shard_bytes=shard_bytes)
    faults((0, "late", 100))
    handle = fastio.save(_tensors(1), _NAME, wait=False, snapshot=snapshot, shard_bytes=shard_bytes)
    os.chdir(other)
    assert handle.result(60) == handle.path == one / _NAME
    assert (_mark(one / _NAME), _mark(precious)) == (1, 7)
    assert os.listdir(one) == os.listdir(other) == [_NAME]


def test_two_saves_of_one_relative_path_from_two_folders_are_two_files(
    folders: tuple[Path, Path], faults: Callable[..., None]
) -> None:
    one, other = folders
    faults((0, "late", 100))
    first = fastio.save(_tensors(1), _NAME, wait=False)
    os.chdir(other)
    second = fastio.save(_tensors(2), _NAME, wait=False)
    os.chdir("/")
    assert (_mark(first.result(60)), _mark(second.result(60))) == (1, 2)
    assert (_mark(one / _NAME), _mark(other / _NAME)) == (1, 2)


@pytest.mark.parametrize(
    "write",
    [
        lambda: fastio.save(_tensors(1), _NAME),
        lambda: fastio.save(_tensors(1), _NAME, shard_bytes=50_000),
        lambda: fastio.numpy.save_file(_tensors(1), _NAME),
        lambda: fastio.seal("plain.safetensors", _NAME),
    ],
    ids=["a file", "shards", "save_file", "seal"],
)
def test_the_process_may_leave_the_folder_while_another_thread_saves(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, write: Callable[[], Any]
) -> None:
    one, other = folders
    fastio.save(_tensors(1), "plain.safetensors", checksums=False)
    opened, moved = threading.Event(), threading.Event()
    real = os.open

    def open_(path: Any, flags: int, *arguments: Any, **more: Any) -> int:
        made = real(path, flags, *arguments, **more)
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            opened.set()
            assert moved.wait(60)
        return made

    monkeypatch.setattr(os, "open", open_)
    with elsewhere(write) as writer:
        assert opened.wait(60)
        os.chdir(other)
        moved.set()
    assert writer.error is None
    assert _mark(one / _NAME) == 1
    assert os.listdir(other) == []


def test_a_save_returns_the_path_as_it_was_given(folders: tuple[Path, Path]) -> None:
    assert fastio.save(_tensors(1), _NAME) == Path(_NAME)
    assert fastio.seal(_NAME) == Path(_NAME)


def test_the_parent_of_a_symlink_is_that_of_the_folder_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to("far/away")
    fastio.save(_tensors(1), tmp_path / "link" / ".." / _NAME)
    assert sorted(os.listdir(tmp_path)) == ["far", "link"]
    assert _mark(tmp_path / "far" / _NAME) == 1


@pytest.mark.parametrize("shard_bytes", [None, 50_000])
@pytest.mark.parametrize("wait", [True, False])
def test_where_the_working_directory_was_removed_an_absolute_path_is_written_to(
    folders: tuple[Path, Path], shard_bytes: int | None, wait: Any
) -> None:
    one, other = folders
    one.rmdir()
    saved = fastio.save(_tensors(1), other / _NAME, wait=wait, shard_bytes=shard_bytes)
    assert _mark(saved if wait else saved.result(60)) == 1
    for path in (_NAME, f"../{_NAME}"):
        with pytest.raises(fastio.WriteError, match="working directory was removed") as raised:
            fastio.save(_tensors(1), path, wait=wait, shard_bytes=shard_bytes)
        assert (raised.value.errno, raised.value.path) == (errno.ENOENT, path)
    assert os.listdir(other) == [_NAME]


@pytest.mark.root
def test_a_folder_whose_parents_are_closed_is_written_to_from_inside(tmp_path: Path) -> None:
    code = """
import ctypes, os, sys
import numpy, fastio
os.chdir(sys.argv[1])
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
assert not os.access(sys.argv[1], os.F_OK)
fastio.save({"a": numpy.ones(3)}, "model")
print(list(fastio.load("model")), os.listdir("."))
"""
    inside = tmp_path / "closed" / "inside"
    inside.mkdir(parents=True)
    os.chown(inside, 65534, 65534)
    (tmp_path / "closed").chmod(0o700)
    done = testbed.run_python(code, inside).check()
    assert done.stdout.split() == ["['a']", "['model']"]


# ---- the mode of new files


@pytest.mark.parametrize("shard_bytes", [None, 50_000])
@pytest.mark.parametrize("named", [False, True], ids=["nameless files", "named files"])
def test_the_mode_is_what_the_umask_of_the_call_leaves(
    tmp_path: Path,
    faults: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    shard_bytes: int | None,
    named: bool,
) -> None:
    if named:
        refuse_nameless_files(monkeypatch)
    faults((0, "late", 100))
    path = tmp_path / "new" / "model"
    before = os.umask(0o027)
    try:
        handle = fastio.save(_tensors(1), path, wait=False, shard_bytes=shard_bytes)
        os.umask(0o077)
        handle.result(60)
    finally:
        os.umask(before)
    files = [path] if shard_bytes is None else list(path.iterdir())
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o640}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o750


# ---- folders that are missing


@pytest.mark.parametrize("shard_bytes", [None, 50_000])
@pytest.mark.parametrize("wait", [True, False])
def test_folders_that_are_missing_are_made(
    folders: tuple[Path, Path], shard_bytes: int | None, wait: Any
) -> None:
    one, _ = folders
    saved = fastio.save(_tensors(1), "runs/7/model", shard_bytes=shard_bytes, wait=wait)
    if not wait:
        saved.result(60)
    assert _mark(one / "runs" / "7" / "model") == 1


def test_the_names_of_folders_that_are_made_are_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []

    def note(folder: Path, *, blamed: Path) -> None:
        synced.append(folder)

    monkeypatch.setattr(folders_module, "sync_folder", note)
    fastio.save(_tensors(1), tmp_path / "a" / "b" / "model")
    assert synced == [tmp_path, tmp_path / "a"]
    synced.clear()
    fastio.save(_tensors(1), tmp_path / "c" / "d" / "model", durable=False)
    assert synced == []


_LITTLE = fastio.Options(memory_limit_bytes=1000)
_ENOUGH_FOR_A_BLOCK = fastio.Options(memory_limit_bytes=2**22)


@pytest.mark.parametrize("shard_bytes", [None, 50_000])
@pytest.mark.parametrize(
    ("tensors", "more"),
    [
        ({"a": np.array(["text"])}, {}),
        ({"a": np.ones(3)}, {"options": _LITTLE}),
        (
            {"a": np.ones(2**20)},
            {"options": _ENOUGH_FOR_A_BLOCK, "wait": False},
        ),
    ],
    ids=["a dtype", "memory", "a copy"],
)
def test_a_save_that_does_not_begin_makes_no_folder(
    tmp_path: Path, tensors: Any, more: Any, shard_bytes: int | None
) -> None:
    with pytest.raises(fastio.FastioError):
        fastio.save(tensors, tmp_path / "a" / "b" / "model", shard_bytes=shard_bytes, **more)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("shard_bytes", [None, 50_000])
def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, shard_bytes: int | None) -> None:
    path = Path("/proc/self/missing/model")
    with pytest.raises(
        fastio.WriteError, match=r"the folder /proc/self/missing is missing"
    ) as raised:
        fastio.save(_tensors(1), path, shard_bytes=shard_bytes)
    assert (raised.value.errno, raised.value.operation, raised.value.path) == (
        errno.ENOENT,
        "mkdir",
        str(path),
    )


@pytest.mark.parametrize("below", ["model", "a/b/model"])
@pytest.mark.parametrize("shard_bytes", [None, 50_000])
def test_what_is_no_folder_on_the_way_is_named(
    tmp_path: Path, below: str, shard_bytes: int | None
) -> None:
    (tmp_path / "file").write_text("precious")
    path = tmp_path / "file" / below
    with pytest.raises(
        fastio.WriteError, match=f"{tmp_path}/file is a file, and no folder"
    ) as raised:
        fastio.save(_tensors(1), path, shard_bytes=shard_bytes)
    assert (raised.value.errno, raised.value.path) == (errno.ENOTDIR, str(path))
    assert (tmp_path / "file").read_text() == "precious"


def test_a_symlink_to_nowhere_on_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to("run7")
    with pytest.raises(fastio.WriteError, match="latest is a symlink that leads nowhere"):
        fastio.save(_tensors(1), tmp_path / "latest" / "model")
    assert os.listdir(tmp_path) == ["latest"]


def test_a_drop_in_makes_no_folder_and_names_the_one_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(fastio.WriteError, match=f"the folder {tmp_path}/a is missing"):
        fastio.numpy.save_file(_tensors(1), tmp_path / "a" / "b" / "model")
    assert os.listdir(tmp_path) == []


# ---- paths that cannot be


@pytest.mark.parametrize("shard_bytes", [None, 50_000])
@pytest.mark.parametrize(
    ("path", "kind", "says"),
    [
        ("", fastio.UsageError, "the path is empty"),
        ("a\0b", ValueError, r"null byte.*'a\\x00b'"),
        (None, TypeError, "path must be a path, not NoneType"),
        ("a" * 300, fastio.WriteError, "ENAMETOOLONG"),
    ],
    ids=["empty", "null byte", "None", "long"],
)
def test_a_path_that_no_file_can_have_is_named(
    folders: tuple[Path, Path],
    path: Any,
    kind: type[Exception],
    says: str,
    shard_bytes: int | None,
) -> None:
    with pytest.raises(kind, match=says):
        fastio.save(_tensors(1), path, shard_bytes=shard_bytes)
    assert os.listdir() == []


@pytest.mark.parametrize("path", ["model/", "/", ".", "..", "a/.."])
def test_the_path_of_a_folder_is_no_place_for_a_file(folders: tuple[Path, Path], path: str) -> None:
    os.mkdir("a")
    with pytest.raises(fastio.WriteError) as raised:
        fastio.save(_tensors(1), path)
    assert raised.value.errno == errno.EISDIR
    assert os.listdir() == ["a"]


@pytest.mark.parametrize("shard_bytes", [None, 50_000])
@pytest.mark.parametrize(
    "path", ["/dev/stdout", "/dev/stderr", "/dev/fd/1", "/proc/self/fd/1", "/dev/null", "/dev/tty"]
)
def test_a_stream_is_not_replaced(path: str, shard_bytes: int | None) -> None:
    before = os.lstat(path) if os.path.lexists(path) else None
    with pytest.raises(fastio.WriteError, match=r"device|descriptor|no folder") as raised:
        fastio.save(_tensors(1), path, shard_bytes=shard_bytes)
    assert raised.value.errno in (errno.EEXIST, errno.ENOTDIR)
    assert os.fspath(raised.value.path) == path
    assert before is None or os.path.samestat(os.lstat(path), before)


def test_a_link_to_a_stream_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for leads in ("pipe", "/dev/null"):
        link = tmp_path / "link"
        link.symlink_to(leads)
        for write in (fastio.save, fastio.numpy.save_file):
            with pytest.raises(fastio.WriteError, match="device, a pipe"):
                write(_tensors(1), link)
        assert os.readlink(link) == leads
        link.unlink()


def test_the_output_of_a_program_stays_the_output(tmp_path: Path) -> None:
    """Also where it goes to a file."""
    source = fastio.save(_tensors(1), tmp_path / _NAME, checksums=False)
    code = f"""
import os, sys, numpy, fastio
os.dup2(os.open({str(tmp_path / "output")!r}, os.O_WRONLY | os.O_CREAT), 1)
for write in (lambda: fastio.save({{"a": numpy.ones(3)}}, "/dev/stdout"),
              lambda: fastio.seal({str(source)!r}, "/dev/stdout")):
    try: write()
    except fastio.WriteError as error: sys.stderr.write(f"{{error}}\\n")
os.write(1, os.readlink("/dev/stdout").encode())
"""
    done = testbed.run_python(code).check()
    assert done.stderr.count("/dev/stdout") == 2
    assert (tmp_path / "output").read_text() == "/proc/self/fd/1"
