"""seal: the same tensors with checksums, in place in one durable step or not at all."""

import errno
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import fastio
import testbed
from load.samples import (
    CHUNK_BYTES,
    data_start,
    expected_bytes,
    flip,
    same_bytes,
    write_even,
    write_model,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model.safetensors")


def _left_overs(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.endswith(".fastio-tmp")]


def test_a_sealed_file_holds_the_same_tensors_for_everybody(path: Path) -> None:
    expected = expected_bytes(path)
    assert fastio.seal(path) == path
    assert expected_bytes(path) == expected
    assert fastio.load(path).keys() == expected.keys()
    assert same_bytes(fastio.load(path, verify="require"), expected)
    assert _left_overs(path.parent) == []


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


def test_a_destination_is_a_copy(path: Path, tmp_path: Path) -> None:
    before = path.read_bytes()
    copy = tmp_path / "copy.safetensors"
    assert fastio.seal(str(path), str(copy)) == copy
    assert path.read_bytes() == before
    assert same_bytes(fastio.load(copy, verify="require"), expected_bytes(path))
    # Sealing what is sealed gives the same bytes again.
    again = fastio.seal(copy, tmp_path / "again.safetensors")
    assert again.read_bytes() == copy.read_bytes()


def test_a_sealed_file_is_verified_and_left_as_it_is(path: Path) -> None:
    fastio.seal(path)
    before = path.stat()
    assert fastio.seal(path) == path
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


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
    # Told that the bytes are good, it takes them as they are.
    fastio.seal(path, target, force=True)
    assert same_bytes(fastio.load(target, verify="require"), expected_bytes(path))


def test_an_unsound_table_is_replaced_only_when_told(path: Path) -> None:
    expected = expected_bytes(path)
    fastio.seal(path)
    flip(path, 43)
    with pytest.raises(fastio.FormatError, match="force=True"):
        fastio.seal(path)
    fastio.seal(path, force=True)
    assert same_bytes(fastio.load(path, verify="require"), expected)


@pytest.mark.parametrize("force", [True, False])
def test_what_is_no_safetensors_file_is_never_sealed(tmp_path: Path, force: bool) -> None:
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


_STEPS = ("posix_fallocate", "pwrite", "fchmod", "fsync", "replace")


def _fail_at(monkeypatch: pytest.MonkeyPatch, name: str, call: int, error: int) -> None:
    """Let the n-th call of a function of os fail."""
    real: Callable[..., Any] = getattr(os, name)
    calls = iter(range(1, 1000))

    def failing(*arguments: Any, **more: Any) -> Any:
        if next(calls) == call:
            raise OSError(error, os.strerror(error))
        return real(*arguments, **more)

    monkeypatch.setattr(os, name, failing)


@pytest.mark.parametrize("step", _STEPS)
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC], ids=errno.errorcode.get)
def test_a_failed_step_leaves_what_was_there(
    path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: int
) -> None:
    before = path.read_bytes()
    _fail_at(monkeypatch, step, 1, error)
    with pytest.raises(fastio.WriteError) as raised:
        fastio.seal(path)
    assert raised.value.errno == error
    assert raised.value.operation in (step, step.removeprefix("p").removeprefix("osix_"), "rename")
    assert path.read_bytes() == before
    assert _left_overs(path.parent) == []


def test_a_failed_header_leaves_what_was_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()
    _fail_at(monkeypatch, "pwrite", 2, errno.EIO)  # the data is one write, the header the next
    with pytest.raises(fastio.WriteError) as raised:
        fastio.seal(path)
    assert raised.value.offset == 0
    assert path.read_bytes() == before
    assert _left_overs(path.parent) == []


def test_when_the_folder_cannot_be_synced_the_error_says_so(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = expected_bytes(path)
    _fail_at(monkeypatch, "fsync", 2, errno.EIO)
    with pytest.raises(fastio.WriteError) as raised:
        fastio.seal(path)
    assert raised.value.operation == "fsync"
    assert same_bytes(fastio.load(path, verify="require"), expected)
    assert _left_overs(path.parent) == []


def test_ctrl_c_leaves_what_was_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fastio.seal(path)
    assert path.read_bytes() == before
    assert _left_overs(path.parent) == []


def test_short_writes_are_continued(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = expected_bytes(path)
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[: 2**20 - 7], at))
    fastio.seal(path)
    assert same_bytes(fastio.load(path, verify="require"), expected)


def test_the_steps_come_in_a_durable_order(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []

    def noted(name: str) -> Callable[..., Any]:
        real: Callable[..., Any] = getattr(os, name)

        def call(*arguments: Any, **more: Any) -> Any:
            folder = name == "fsync" and stat.S_ISDIR(os.fstat(arguments[0]).st_mode)
            at = f" at {arguments[2]}" if name == "pwrite" else ""
            steps.append(name + (" of the folder" if folder else "") + at)
            return real(*arguments, **more)

        return call

    for name in _STEPS:
        monkeypatch.setattr(os, name, noted(name))
    fastio.seal(path)
    start = data_start(path)
    assert steps == [
        "posix_fallocate",
        f"pwrite at {start}",
        "pwrite at 0",
        "fchmod",
        "fsync",
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
def test_a_full_disk_is_met_before_anything_is_written(small_disk: Path) -> None:
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


def test_the_temporary_name_tells_whose_it_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    real = os.replace

    def replace(src: Path, dst: Path) -> None:
        seen.append(src.name)
        real(src, dst)

    monkeypatch.setattr(os, "replace", replace)
    fastio.seal(path)
    assert re.fullmatch(r"\.model\.safetensors\.[0-9a-f]{16}\.fastio-tmp", seen[0])
