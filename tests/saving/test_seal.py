"""seal: the same tensors with checksums, in place in one durable step or not at all."""

import errno
import gc
import json
import logging
import os
import re
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import fastio
import testbed
from samples import (
    CHUNK_BYTES,
    data_start,
    eventually,
    expected_bytes,
    flip,
    open_files,
    same_bytes,
    write_even,
    write_model,
)
from testbed.targets import WatchedTarget, fail_at, refuse_nameless_files, watch_targets


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model.safetensors")


@pytest.fixture(params=["nameless", "named"])
def beginning(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The start of the new file: unnamed, or under a temporary name where O_TMPFILE fails."""
    way: str = request.param
    if way == "named":
        refuse_nameless_files(monkeypatch)
    return way


def _left_overs(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.endswith(".fastio-tmp")]


def test_a_sealed_file_holds_the_same_tensors_for_everybody(path: Path) -> None:
    expected = expected_bytes(path)
    assert fastio.seal(path) == path
    assert expected_bytes(path) == expected
    assert fastio.load(path).keys() == expected.keys()
    assert same_bytes(fastio.load(path, verify="require"), expected)
    assert _left_overs(path.parent) == []


_arrays = st.dictionaries(
    st.text(max_size=8).filter(lambda name: name != "__metadata__"),
    st.tuples(
        st.sampled_from(["u1", "i2", "f4", "f8", "?"]), st.lists(st.integers(0, 40), max_size=3)
    ),
    max_size=6,
)
_metadata = st.dictionaries(
    st.text(max_size=8).filter(lambda key: not key.startswith("fastio.")),
    st.text(max_size=8),
    max_size=4,
)


@hypothesis.settings(max_examples=50)
@hypothesis.given(specs=_arrays, metadata=_metadata)
def test_any_valid_file_can_be_sealed_and_is_the_same_for_everybody(
    tmp_path_factory: pytest.TempPathFactory,
    specs: dict[str, tuple[str, list[int]]],
    metadata: dict[str, str],
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    rng = np.random.default_rng(1)
    arrays = {
        name: rng.integers(0, 2, shape, np.uint8).astype(dtype)
        for name, (dtype, shape) in specs.items()
    }
    # safetensors 0.8 writes broken JSON for no tensors with empty metadata.
    save_file(arrays, path, metadata or None)
    # safetensors gives empty tensors no order: they may share an offset.
    with safe_open(path, "np") as file:
        order = [name for name in file.offset_keys() if arrays[name].size]
    expected = expected_bytes(path)
    fastio.seal(path)
    with safe_open(path, "np") as file:
        assert [name for name in file.offset_keys() if arrays[name].size] == order
        found = file.metadata()
        for name, array in arrays.items():
            entry = file.get_slice(name)
            assert (entry.get_shape(), file.get_tensor(name).dtype) == (
                list(array.shape),
                array.dtype,
            )
    users = {k: v for k, v in found.items() if not k.startswith("fastio.")}
    assert users == (metadata or {"format": "pt"})
    assert expected_bytes(path) == expected
    assert same_bytes(fastio.load(path, verify="require"), expected)


def test_the_order_of_the_data_stays_whatever_that_of_the_header(tmp_path: Path) -> None:
    entries = {
        name: {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}
        for name, (begin, end) in {"z": (3, 5), "m": (0, 3), "e": (3, 3), "a": (5, 9)}.items()
    }
    text = json.dumps(entries).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(range(9)))
    expected = expected_bytes(path)
    fastio.seal(path)
    content, start = path.read_bytes(), data_start(path)
    assert list(json.loads(content[8:start]))[1:] == ["m", "e", "z", "a"]
    assert content[start:] == bytes(range(9))
    assert expected_bytes(path) == expected


_STEP_BYTES = 2**24  # the size of seal's reads


@pytest.mark.parametrize("more", [-1, 0, 1, _STEP_BYTES + 7])
def test_files_longer_than_a_step_are_sealed_whole(tmp_path: Path, more: int) -> None:
    path = write_even(tmp_path / "model.safetensors", 1, _STEP_BYTES + more)
    expected = expected_bytes(path)
    fastio.seal(path)
    report = fastio.Report()
    assert same_bytes(fastio.load(path, verify="require", report=report), expected)
    assert report.chunks_verified == -(-(_STEP_BYTES + more) // CHUNK_BYTES)


def test_damage_behind_the_first_step_is_reported_with_its_offset(tmp_path: Path) -> None:
    path = fastio.seal(write_even(tmp_path / "model.safetensors", 3, _STEP_BYTES * 2 // 3))
    start = data_start(path)
    flip(path, start + 21 * CHUNK_BYTES + 3, bit=7)
    with pytest.raises(fastio.ChecksumError) as loading:
        fastio.load(path)
    flip(path, start + 30 * CHUNK_BYTES)
    with pytest.raises(fastio.ChecksumError) as sealing:
        fastio.seal(path)
    assert (sealing.value.chunk, sealing.value.tensors) == (21, ("t1", "t2"))
    # Both say the same.
    assert str(sealing.value) == str(loading.value)


def test_metadata_of_the_user_stays(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    metadata = {"format": "np", "b": "ü", "a": '"\\'}
    save_file({"w": np.arange(4)}, path, metadata)
    fastio.seal(path)
    with safe_open(path, "np") as file:
        found = file.metadata()
    assert {k: v for k, v in found.items() if not k.startswith("fastio.")} == metadata
    assert np.array_equal(load_file(path)["w"], np.arange(4))


@pytest.mark.parametrize(
    "arrays",
    [{}, {"e": np.zeros((0, 3), np.float32)}, {"s": np.array(1, np.float32)}],
    ids=["no tensors", "an empty one", "a scalar"],
)
def test_the_smallest_files_can_be_sealed(tmp_path: Path, arrays: dict[str, Any]) -> None:
    path = tmp_path / "model.safetensors"
    save_file(arrays, path)
    fastio.seal(path)
    loaded = fastio.load(path, verify="require")
    assert loaded.keys() == arrays.keys()
    assert all(np.array_equal(loaded[name], arrays[name]) for name in arrays)


def test_sealing_to_a_destination_leaves_the_source(path: Path, tmp_path: Path) -> None:
    before = path.read_bytes()
    copy = tmp_path / "copy.safetensors"
    assert fastio.seal(str(path), str(copy)) == copy
    assert path.read_bytes() == before
    assert same_bytes(fastio.load(copy, verify="require"), expected_bytes(path))
    # Sealing a sealed file gives the same bytes again.
    again = fastio.seal(copy, tmp_path / "again.safetensors")
    assert again.read_bytes() == copy.read_bytes()


def test_a_sealed_file_is_verified_and_left_as_it_is(path: Path) -> None:
    fastio.seal(path)
    before = path.stat()
    assert fastio.seal(path) == path
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_force_seals_a_sealed_file_anew(path: Path) -> None:
    fastio.seal(path)
    before, inode = path.read_bytes(), path.stat().st_ino
    fastio.seal(path, force=True)
    assert path.read_bytes() == before
    assert path.stat().st_ino != inode


def test_a_sealed_file_under_another_name_is_left_as_it_is(path: Path, tmp_path: Path) -> None:
    fastio.seal(path)
    other = tmp_path / "other.safetensors"
    os.link(path, other)
    inode = path.stat().st_ino
    assert fastio.seal(path, other) == other
    assert (path.stat().st_ino, other.stat().st_ino) == (inode, inode)


def test_a_hard_link_keeps_the_old_file(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    os.link(path, other)
    before = path.read_bytes()
    fastio.seal(path)
    assert other.read_bytes() == before
    assert not other.samefile(path)


@pytest.mark.parametrize("in_place", [True, False])
def test_a_damaged_source_is_not_sealed_again(path: Path, tmp_path: Path, in_place: bool) -> None:
    fastio.seal(path)
    start = data_start(path)
    flip(path, start + 2 * CHUNK_BYTES + 5)
    damaged = path.read_bytes()
    target = path if in_place else tmp_path / "copy"
    with pytest.raises(fastio.ChecksumError) as raised:
        fastio.seal(path, target)
    error = raised.value
    assert (error.chunk, error.offset, error.nbytes) == (
        2,
        start + 2 * CHUNK_BYTES,
        CHUNK_BYTES,
    )
    assert error.tensors == ("layers.0.weight",)
    assert error.expected != error.found
    assert path.read_bytes() == damaged
    assert in_place or not target.exists()
    assert _left_overs(tmp_path) == []
    # With the bytes declared good, it does not verify them.
    fastio.seal(path, target, force=True)
    assert same_bytes(fastio.load(target, verify="require"), expected_bytes(path))


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize("in_place", [True, False])
def test_metadata_copied_from_another_file_is_replaced(
    tmp_path: Path, in_place: bool, force: bool
) -> None:
    sealed = fastio.seal(write_even(tmp_path / "sealed.safetensors", 2, 1000))
    with safe_open(sealed, "np") as file:
        copied = {**file.metadata(), "format": "np"}
    path = tmp_path / "model.safetensors"
    save_file({"w": np.arange(4)}, path, copied)
    target = path if in_place else tmp_path / "new.safetensors"
    fastio.seal(path, target, force=force)
    assert np.array_equal(fastio.load(target, verify="require")["w"], np.arange(4))
    with safe_open(target, "np") as file:
        found = file.metadata()
    assert found["format"] == "np"
    assert found["fastio.header"] != copied["fastio.header"]
    # It equals the seal of a file without copied metadata.
    plain = tmp_path / "plain.safetensors"
    save_file({"w": np.arange(4)}, plain, {"format": "np"})
    assert fastio.seal(plain).read_bytes() == target.read_bytes()


def test_an_unsound_table_is_replaced_on_request_only(path: Path) -> None:
    expected = expected_bytes(path)
    fastio.seal(path)
    flip(path, 43)
    with pytest.raises(fastio.FormatError, match="force=True"):
        fastio.seal(path)
    fastio.seal(path, force=True)
    assert same_bytes(fastio.load(path, verify="require"), expected)


@pytest.mark.parametrize("force", [True, False])
def test_an_invalid_file_is_never_sealed(tmp_path: Path, force: bool) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"no")
    with pytest.raises(fastio.FormatError):
        fastio.seal(path, force=force)
    with pytest.raises(FileNotFoundError):
        fastio.seal(tmp_path / "gone", force=force)
    assert path.read_bytes() == b"no"


def test_mode_and_times_of_the_replaced_file(path: Path, tmp_path: Path) -> None:
    path.chmod(0o640)
    assert stat.S_IMODE(fastio.seal(path).stat().st_mode) == 0o640
    target = write_model(tmp_path / "other.safetensors")
    target.chmod(0o604)
    assert stat.S_IMODE(fastio.seal(path, target).stat().st_mode) == 0o604
    fresh = tmp_path / "fresh.safetensors"
    assert stat.S_IMODE(fastio.seal(path, fresh).stat().st_mode) == 0o640


@pytest.mark.root
def test_the_owner_stays(path: Path) -> None:
    os.chown(path, 12345, 54321)
    path.chmod(0o600)
    status = fastio.seal(path).stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (12345, 54321, 0o600)


@pytest.mark.root
def test_the_owner_of_the_file_that_goes_stays(path: Path, tmp_path: Path) -> None:
    target = write_model(tmp_path / "target.safetensors")
    os.chown(target, 12345, 54321)
    os.chown(path, 1, 1)
    status = fastio.seal(path, target).stat()
    assert (status.st_uid, status.st_gid) == (12345, 54321)


def _not_permitted(*_: object) -> None:
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.mark.root
@pytest.mark.parametrize("uid", [0, 1000])
def test_an_owner_that_cannot_be_set_is_a_warning(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, uid: int
) -> None:
    os.chown(path, 12345, 54321 + uid)  # each mount is reported once
    path.chmod(0o640)
    monkeypatch.setattr(os, "fchown", _not_permitted)
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    with caplog.at_level(logging.WARNING, "fastio"):
        status = fastio.seal(path).stat()
    # The new group is not the one that the mode gave access to.
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (os.getuid(), 0o600)
    (record,) = caplog.records
    assert f"12345:{54321 + uid}" in record.getMessage()
    assert len(fastio.load(path, verify="require")) > 0


@pytest.mark.usefixtures("beginning")
def test_nobody_else_can_read_the_file_while_it_is_written(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.chmod(0o644)
    modes: list[int] = []

    def noted(name: str, target: WatchedTarget, _: tuple[Any, ...]) -> None:
        if name == "write":
            modes.append(stat.S_IMODE(os.fstat(target.fd).st_mode))

    watch_targets(monkeypatch, noted)
    fastio.seal(path)
    assert set(modes) == {0o600}
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_symlink_to_nowhere_is_replaced(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.safetensors"
    link.symlink_to("gone/away")
    fastio.seal(path, link)
    assert not link.is_symlink()
    assert same_bytes(fastio.load(link, verify="require"), expected_bytes(path))


def test_a_symlink_is_replaced_and_not_followed(path: Path, tmp_path: Path) -> None:
    before = path.read_bytes()
    link = tmp_path / "link.safetensors"
    for arguments in ((link,), (path, link)):
        link.unlink(missing_ok=True)
        link.symlink_to(path.name)
        fastio.seal(*arguments)
        assert not link.is_symlink()
        assert path.read_bytes() == before
        assert same_bytes(fastio.load(link, verify="require"), expected_bytes(path))


_STEPS = ("fallocate", "write", "fchmod", "fsync", "replace")


@pytest.mark.usefixtures("beginning")
@pytest.mark.parametrize("step", _STEPS)
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC], ids=errno.errorcode.get)
def test_a_failed_step_leaves_the_old_file(
    path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: int
) -> None:
    before = path.read_bytes()
    fail_at(monkeypatch, step, 1, error)
    with pytest.raises(fastio.WriteError) as raised:
        fastio.seal(path)
    assert raised.value.errno == error
    assert raised.value.operation == step.replace("replace", "rename")
    assert raised.value.path == str(path)
    assert path.read_bytes() == before
    assert _left_overs(path.parent) == []


@pytest.mark.usefixtures("beginning")
@pytest.mark.parametrize("step", _STEPS)
def test_a_failed_step_leaves_no_new_file(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    fail_at(monkeypatch, step, 1, errno.EIO)
    with pytest.raises(fastio.WriteError):
        fastio.seal(path, tmp_path / "new.safetensors")
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("error", ["EOPNOTSUPP", "EINVAL"])
def test_a_filesystem_that_cannot_reserve_space_is_written_to_all_the_same(
    path: Path, error: str
) -> None:
    expected = expected_bytes(path)
    code = "import sys, fastio; fastio.seal(sys.argv[1])"
    done = testbed.run_python(code, path, inject=[f"fallocate:error={error}"]).check()
    assert "INJECTED" in done.trace
    assert same_bytes(fastio.load(path, verify="require"), expected)


@pytest.mark.parametrize(
    ("target", "error"), [("gone/x.safetensors", errno.ENOENT), ("folder", errno.EISDIR)]
)
def test_a_destination_that_cannot_be_written_is_an_error(
    path: Path, tmp_path: Path, target: str, error: int
) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(fastio.WriteError) as raised:
        fastio.seal(path, tmp_path / target)
    assert raised.value.errno == error
    assert sorted(os.listdir(tmp_path)) == ["folder", path.name]
    assert os.listdir(tmp_path / "folder") == []


def test_pipes_and_folders_are_not_replaced(path: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(fastio.WriteError, match="is a pipe") as raised:
        fastio.seal(path, pipe)
    assert raised.value.path == str(pipe)
    assert stat.S_ISFIFO(pipe.lstat().st_mode)
    assert _left_overs(tmp_path) == []


def test_a_symlink_to_a_folder_gives_the_file_nothing_of_its_mode(
    path: Path, tmp_path: Path
) -> None:
    path.chmod(0o640)
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(0o2777)
    link = tmp_path / "link"
    link.symlink_to(folder)
    fastio.seal(path, link)
    assert stat.S_IMODE(link.lstat().st_mode) == 0o640
    assert os.listdir(folder) == []


def test_a_process_that_is_killed_leaves_nothing_behind(path: Path) -> None:
    before = path.read_bytes()
    # Killed when the new file is whole and on the disk, just before it gets a name.
    code = """
import os, signal, sys
import fastio.host.replacement
fastio.host.replacement.Replacement.link = lambda self: os.kill(os.getpid(), signal.SIGKILL)
fastio.seal(sys.argv[1])
"""
    assert testbed.run_python(code, path).returncode == -signal.SIGKILL
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_source_that_shrinks_meanwhile_is_an_error(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = write_even(tmp_path / "target.safetensors", 1, 10)
    before, end = target.read_bytes(), path.stat().st_size - 1

    def shrinking(name: str, *_: object) -> None:
        if name == "fallocate":
            os.truncate(path, end)

    watch_targets(monkeypatch, shrinking)
    with pytest.raises(fastio.ReadError, match="read") as raised:
        fastio.seal(path, target)
    assert raised.value.path == str(path)
    assert target.read_bytes() == before
    assert _left_overs(tmp_path) == []


def test_a_failed_write_of_the_header_leaves_the_old_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()
    fail_at(monkeypatch, "write", 2, errno.EIO)  # the data is one write, the header the next
    with pytest.raises(fastio.WriteError) as raised:
        fastio.seal(path)
    assert raised.value.offset == 0
    assert path.read_bytes() == before
    assert _left_overs(path.parent) == []


def test_when_the_folder_cannot_be_synced_the_error_says_so(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = expected_bytes(path)
    fail_at(monkeypatch, "fsync", 2, errno.EIO)
    with pytest.raises(fastio.WriteError) as raised:
        fastio.seal(path)
    assert raised.value.operation == "fsync"
    assert same_bytes(fastio.load(path, verify="require"), expected)
    assert _left_overs(path.parent) == []


@pytest.mark.usefixtures("beginning")
def test_ctrl_c_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def interrupted(name: str, *_: object) -> None:
        if name == "fsync":
            raise KeyboardInterrupt

    watch_targets(monkeypatch, interrupted)
    gc.collect()  # files that earlier tests left open, since their errors were kept
    descriptors = open_files()
    with pytest.raises(KeyboardInterrupt):
        fastio.seal(path)
    assert path.read_bytes() == before
    # An interrupt does not wait for the disk: a thread removes the leftovers later.
    assert eventually(lambda: _left_overs(path.parent) == [] and open_files() <= descriptors)


def test_the_steps_come_in_a_durable_order(
    path: Path, monkeypatch: pytest.MonkeyPatch, beginning: str
) -> None:
    steps: list[str] = []

    def noted(name: str, target: WatchedTarget, arguments: tuple[Any, ...]) -> None:
        folder = stat.S_ISDIR(os.fstat(target.fd).st_mode)
        at = f" at {arguments[0]}" if name == "write" else ""
        steps.append(name + (" of the folder" if folder else "") + at)

    def noted_call(name: str) -> Callable[..., Any]:
        real: Callable[..., Any] = getattr(os, name)

        def call(*arguments: Any, **more: Any) -> Any:
            steps.append(name)
            return real(*arguments, **more)

        return call

    watch_targets(monkeypatch, noted)
    for name in ("fchmod", "link", "replace"):
        monkeypatch.setattr(os, name, noted_call(name))
    fastio.seal(path)
    start = data_start(path)
    assert steps == [
        "fallocate",
        f"write at {start}",
        "write at 0",
        "fchmod",
        "fsync",
        *(["link"] if beginning == "nameless" else []),
        "replace",
        "fsync of the folder",
    ]


def test_a_name_of_the_longest_length_can_be_sealed(tmp_path: Path) -> None:
    path = write_even(tmp_path / ("ü" * 125 + ".st"), 1, 100)
    fastio.seal(path)
    assert len(fastio.load(path, verify="require")) == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    with testbed.tmpfs_mount(folder, nbytes=20 * 2**20) as mount:
        yield mount.path


@pytest.mark.root
def test_a_full_disk_is_found_before_any_file_is_written(small_disk: Path) -> None:
    path = write_even(small_disk / "model.safetensors", 12, CHUNK_BYTES)
    before = path.read_bytes()
    with pytest.raises(fastio.WriteError) as raised:
        fastio.seal(path)
    assert (raised.value.errno, raised.value.operation) == (errno.ENOSPC, "fallocate")
    assert path.read_bytes() == before
    assert os.listdir(small_disk) == [path.name]


def test_no_flipped_bit_of_a_sealed_file_goes_unseen(tmp_path: Path) -> None:
    path = fastio.seal(write_even(tmp_path / "model.safetensors", 3, 10_000))
    content = bytearray(path.read_bytes())
    start = data_start(path)
    text = len(bytes(content[:start]).rstrip(b" "))
    # Every bit of the header's text, and some of its padding and of the data.
    bits = [
        *range(8 * text),
        *range(8 * text, 8 * start, 257),
        *range(8 * start, 8 * len(content), 997),
    ]
    for bit in bits:
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        with pytest.raises((fastio.FormatError, fastio.ChecksumError)) as raised:
            fastio.load(path)
        in_data = bit >= 8 * start
        assert isinstance(raised.value, fastio.ChecksumError) == in_data, bit
        content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    assert len(fastio.load(path, verify="require")) == 3


@pytest.mark.usefixtures("beginning")
def test_the_temporary_name_tells_whose_it_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    real = os.replace

    def replace(src: Path, dst: Path) -> None:
        seen.append(src.name)
        real(src, dst)

    monkeypatch.setattr(os, "replace", replace)
    fastio.seal(path)
    assert re.fullmatch(r"\.model\.safetensors\.[0-9a-f]{16}\.fastio-tmp", seen[0])
