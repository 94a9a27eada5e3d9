"""Saves on filesystems that lack calls: the bytes are right, no other file is left, and the report
names each lack.
"""

import errno
import itertools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import fastio
import fastio.numpy
import testbed
from fastio.saving.writing import FileWriter
from samples import eventually

Mounted = Callable[..., testbed.LackingMount]

_NO_CALL, _NO_SUPPORT = errno.ENOSYS, errno.EOPNOTSUPP
_OLD: dict[str, Any] = {"old": np.arange(1000.0)}
_NEW: dict[str, Any] = {
    "a": np.random.default_rng(1).standard_normal((700, 300)).astype(np.float32),
    "b": np.asfortranarray(np.arange(60_000, dtype=np.int32).reshape(200, 300)),
    "c": np.arange(77, dtype=np.int8),
}
# Most FUSE filesystems lack it; fastio then tries other calls.
_PLAIN = {"fallocate": _NO_SUPPORT}

_RENAMING: Mapping[str, Mapping[str, int]] = {
    "all calls": {},
    "no fallocate": _PLAIN,
    "no truncate ENOSYS": {**_PLAIN, "truncate": _NO_CALL},
    "no truncate EOPNOTSUPP": {**_PLAIN, "truncate": _NO_SUPPORT},
    "no truncate, and fallocate": {"truncate": errno.EPERM},
    "no link": {**_PLAIN, "link": errno.EPERM},
    "no chmod EPERM": {"chmod": errno.EPERM},
    "no chmod ENOSYS": {"chmod": _NO_CALL},
    "no chown": {"chown": errno.EPERM},
    "no fsync": {"fsync": errno.EINVAL},
    "no fsync of folders": {"fsyncdir": errno.EINVAL},
    "no O_DIRECT": {"direct": errno.EINVAL},
    "writes in order": {**_PLAIN, "order": errno.EINVAL, "truncate": _NO_SUPPORT},
    "writes in order, nothing cached": {**_PLAIN, "order": errno.EINVAL, "direct_io": 1},
    "writes in order, ESPIPE": {**_PLAIN, "order": errno.ESPIPE},
    "like HDFS": testbed.LIKE_HDFS,
}
_FIXED: Mapping[str, Mapping[str, int]] = {
    "no rename ENOSYS": {**_PLAIN, "rename": _NO_CALL},
    "no rename EPERM": {**_PLAIN, "rename": errno.EPERM},
    "no rename, no link": {**_PLAIN, "rename": _NO_CALL, "link": _NO_CALL},
    "no rename, writes in order, nothing cached": {
        **_PLAIN,
        "rename": _NO_CALL,
        "order": errno.EINVAL,
        "direct_io": 1,
    },
    "no rename, writes in order": {**_PLAIN, "rename": _NO_CALL, "order": errno.EINVAL},
    "like S3": testbed.LIKE_S3,
}


def _save(path: Path, tensors: Mapping[str, Any], **more: Any) -> None:
    fastio.save(tensors, path, **more)


def _save_file(path: Path, tensors: Mapping[str, Any]) -> None:
    fastio.numpy.save_file(dict(tensors), path)


def _through_the_cache(path: Path, tensors: Mapping[str, Any]) -> None:
    _save(path, tensors, options=fastio.Options(cache="keep", engine="pread"))


def _not_durable(path: Path, tensors: Mapping[str, Any]) -> None:
    _save(path, tensors, durable=False)


def _in_the_background(path: Path, tensors: Mapping[str, Any]) -> None:
    fastio.start_save(tensors, path).result()


def _without_checksums(path: Path, tensors: Mapping[str, Any]) -> None:
    _save(path, tensors, checksums=False)


def _shards(path: Path, tensors: Mapping[str, Any]) -> None:
    _save(path, tensors, shard_bytes=250_000)


_WAYS = [
    _save,
    _save_file,
    _through_the_cache,
    _not_durable,
    _in_the_background,
    _without_checksums,
    _shards,
]


def _assert_holds(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    found = fastio.load(path)
    assert sorted(found) == sorted(tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name], tensor)


def _names_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _only(folder: Path, count: int) -> bool:
    """Whether there are that many files; FUSE removes one that was open when it is closed."""
    return eventually(lambda: len(_names_below(folder)) == count)


@pytest.mark.parametrize("way", _WAYS, ids=lambda way: way.__name__.strip("_"))
@pytest.mark.parametrize("lacks", _RENAMING)
def test_a_file_is_saved_and_replaced(lacking_mount: Mounted, lacks: str, way: Any) -> None:
    mount = lacking_mount(**_RENAMING[lacks])
    path = mount.path / "model"
    for tensors in (_OLD, _NEW, _OLD, _NEW):
        way(path, tensors)
        _assert_holds(mount.source / "model", tensors)
    assert _only(mount.source, 1 if way is not _shards else 3), _names_below(mount.source)
    if way is not _shards:
        found = safetensors.numpy.load_file(mount.source / "model")
        np.testing.assert_array_equal(found["a"], _NEW["a"])


@pytest.mark.parametrize("way", _WAYS, ids=lambda way: way.__name__.strip("_"))
@pytest.mark.parametrize("lacks", _FIXED)
def test_without_rename_a_new_file_is_saved_and_an_old_one_left_alone(
    lacking_mount: Mounted, lacks: str, way: Any
) -> None:
    mount = lacking_mount(**_FIXED[lacks])
    path = mount.path / "model"
    way(path, _NEW)
    _assert_holds(mount.source / "model", _NEW)
    files = 1 if way is not _shards else 3
    assert _only(mount.source, files), _names_below(mount.source)
    with pytest.raises(fastio.WriteError, match="in_place=True") as raised:
        way(path, _OLD)
    assert (raised.value.errno, raised.value.operation) == (_NO_CALL, "rename")
    _assert_holds(mount.source / "model", _NEW)
    assert _only(mount.source, files), _names_below(mount.source)


@pytest.mark.parametrize("way", _WAYS, ids=lambda way: way.__name__.strip("_"))
@pytest.mark.parametrize("lacks", [*_RENAMING, *_FIXED])
def test_in_place_a_file_is_replaced_everywhere(
    lacking_mount: Mounted, monkeypatch: pytest.MonkeyPatch, lacks: str, way: Any
) -> None:
    monkeypatch.setenv("FASTIO_IN_PLACE", "1")
    mount = lacking_mount(**{**_RENAMING, **_FIXED}[lacks])
    path = mount.path / "model"
    for tensors in (_NEW, _OLD, _NEW):  # longer, and shorter
        way(path, tensors)
        _assert_holds(mount.source / "model", tensors)
    assert _only(mount.source, 1 if way is not _shards else 3), _names_below(mount.source)


@pytest.mark.parametrize("lacks", [*_RENAMING, *_FIXED])
def test_a_file_is_sealed(lacking_mount: Mounted, tmp_path: Path, lacks: str) -> None:
    mount = lacking_mount(**{**_RENAMING, **_FIXED}[lacks])
    safetensors.numpy.save_file({"a": _NEW["a"]}, mount.source / "model.safetensors")
    path = mount.path / "model.safetensors"
    fastio.seal(path, mount.path / "sealed.safetensors")
    fastio.load(mount.source / "sealed.safetensors", verify="require")
    if lacks in _RENAMING:
        fastio.seal(path)
        fastio.load(mount.source / "model.safetensors", verify="require")
    else:
        with pytest.raises(fastio.WriteError, match="cannot rename"):
            fastio.seal(path)
        _assert_holds(mount.source / "model.safetensors", {"a": _NEW["a"]})
    assert _only(mount.source, 2), _names_below(mount.source)


@pytest.mark.parametrize("lacks", _RENAMING)
def test_a_store_lives(lacking_mount: Mounted, lacks: str) -> None:
    mount = lacking_mount(**_RENAMING[lacks])
    store = fastio.Store.create([mount.path / "one", mount.path / "other"], replicas=2)
    for tensors in (_OLD, _NEW):
        store.save(tensors)
    _assert_holds(mount.path / "one", _NEW)
    store.gc(keep=1)
    (shard,) = (mount.source / "one" / "shards").glob("*.safetensors")
    whole = shard.read_bytes()
    shard.unlink()
    store.load(on_damage="repair")
    assert shard.read_bytes() == whole
    store.close()
    assert eventually(lambda: not any("tmp" in name for name in _names_below(mount.source)))


@pytest.mark.parametrize("lacks", _FIXED)
def test_a_store_says_at_once_that_it_needs_rename(lacking_mount: Mounted, lacks: str) -> None:
    mount = lacking_mount(**_FIXED[lacks])
    with pytest.raises(fastio.WriteError, match="a store replaces files") as raised:
        fastio.Store.create([mount.path / "root"], replicas=1)
    assert raised.value.operation == "rename"
    assert _only(mount.source, 0), _names_below(mount.source)


def test_a_store_says_that_it_needs_locks(lacking_mount: Mounted) -> None:
    mount = lacking_mount(flock=_NO_SUPPORT)
    _save(mount.path / "model", _NEW)
    _assert_holds(mount.path / "model", _NEW)
    with pytest.raises(fastio.FastioError, match="flock"):
        fastio.Store.create([mount.path / "root"], replicas=1).save(_NEW)


# ---- reports


def _report_of(path: Path, **more: Any) -> fastio.Report:
    report = fastio.Report()
    fastio.save(_NEW, path, report=report, **more)
    return report


def test_the_report_names_the_missing_calls(lacking_mount: Mounted) -> None:
    refused = {**testbed.LIKE_S3, "fsync": errno.EINVAL, "fsyncdir": errno.EOPNOTSUPP}
    report = _report_of(lacking_mount(**refused).path / "model")
    assert report.cache == "kept"
    assert report.cache_reason.startswith("in order, through the page cache")
    assert report.bytes_buffered == report.nbytes == sum(a.nbytes for a in _NEW.values())
    said = "\n".join(report.fallbacks)
    assert "a write at an offset is refused here (EINVAL)" in said
    assert "rename is refused here" in said
    assert "fsync is refused here (EINVAL); whether the bytes are on the disk" in said
    assert "fsync of a folder is refused here (ENOTSUP); whether the file's name" in said


def test_the_report_of_a_folder_names_the_missing_calls(lacking_mount: Mounted) -> None:
    mount = lacking_mount(fsyncdir=errno.EINVAL)
    for _ in range(2):
        report = _report_of(mount.path / "model", shard_bytes=250_000)
        assert any("fsync of a folder is refused" in line for line in report.fallbacks)


def test_a_filesystem_that_lacks_nothing_is_not_complained_of(lacking_mount: Mounted) -> None:
    told: list[fastio.Event] = []
    before = fastio.on_event(told.append)
    try:
        report = _report_of(lacking_mount().path / "model")
    finally:
        fastio.on_event(before)
    assert ([line for line in report.fallbacks if "refused" in line], told) == ([], [])


def test_a_listener_hears_of_a_lack_once_a_mount(
    lacking_mount: Mounted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastio.host.refusals._told", set())
    told: list[fastio.Event] = []
    before = fastio.on_event(told.append)
    try:
        mount = lacking_mount(fsyncdir=errno.EINVAL)
        for name in ("one", "other"):
            assert len(_report_of(mount.path / name).fallbacks) == 1
    finally:
        fastio.on_event(before)
    assert [(event.kind, event.path) for event in told] == [("fallback", str(mount.path / "one"))]


# ---- failures


def test_a_real_failure_to_bring_a_name_to_the_disk_is_an_error(lacking_mount: Mounted) -> None:
    mount = lacking_mount(fsyncdir=errno.EIO)
    with pytest.raises(fastio.WriteError) as raised:
        _save(mount.path / "model", _NEW)
    assert (raised.value.errno, raised.value.operation) == (errno.EIO, "fsync")


@pytest.mark.parametrize("way", [_save, _in_the_background, _shards])
@pytest.mark.parametrize("lacks", [*_RENAMING, *_FIXED])
def test_a_disk_that_runs_full_leaves_nothing(lacking_mount: Mounted, lacks: str, way: Any) -> None:
    mount = lacking_mount(**{**_RENAMING, **_FIXED}[lacks], full=200_000)
    with pytest.raises(fastio.WriteError) as raised:
        way(mount.path / "model", _NEW)
    assert raised.value.errno == errno.ENOSPC
    assert _only(mount.source, 0), _names_below(mount.source)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EROFS, errno.EXDEV])
@pytest.mark.parametrize("way", [_save, _in_the_background, _shards])
def test_a_rename_that_fails_leaves_nothing(lacking_mount: Mounted, code: int, way: Any) -> None:
    """Nor can it remove an open file: FUSE renames it meanwhile."""
    mount = lacking_mount(rename=code)
    with pytest.raises(fastio.WriteError) as raised:
        way(mount.path / "model", _NEW)
    assert (raised.value.errno, raised.value.operation) == (code, "rename")
    assert _only(mount.source, 0), _names_below(mount.source)


def test_a_tensor_that_changes_while_it_is_written_in_order_is_an_error(
    lacking_mount: Mounted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file has its checksums by then."""
    mount = lacking_mount(**testbed.LIKE_HDFS)
    tensors = {"a": np.zeros(100_000, np.float32)}
    headers = itertools.count()
    real = FileWriter.header

    def changing(self: Any) -> Any:
        header = real(self)
        if next(headers) == 0:
            tensors["a"][5] = 1
        return header

    monkeypatch.setattr(FileWriter, "header", changing)
    with pytest.raises(fastio.WriteError, match="a tensor changed while it was saved"):
        _save(mount.path / "model", tensors)
    assert _only(mount.source, 0)


# ---- calls refused on a disk that has the others


def _refuse_once_named(monkeypatch: pytest.MonkeyPatch, call: str, code: int) -> None:
    def refusing(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, refusing)
    monkeypatch.setattr("fastio.host.new_file._cannot_link", set())


@pytest.mark.parametrize(
    "code",
    [errno.EPERM, errno.EXDEV, errno.ENOENT, errno.ENOSYS, errno.EOPNOTSUPP, errno.EACCES],
)
@pytest.mark.parametrize("way", [_save, _save_file, _shards, _not_durable])
def test_a_file_that_gets_no_name_is_written_again_under_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, way: Any
) -> None:
    """AppArmor and gVisor refuse linkat from /proc/self/fd, as does another process's /proc."""
    path = tmp_path / "model"
    way(path, _OLD)
    modes = {name: (tmp_path / name).stat().st_mode for name in _names_below(tmp_path)}
    _refuse_once_named(monkeypatch, "link", code)
    for _ in range(2):
        way(path, _NEW)
        _assert_holds(path, _NEW)
    assert len(_names_below(tmp_path)) == (1 if way is not _shards else 3)
    if way is not _shards:
        assert path.stat().st_mode == modes["model"]


def test_a_new_file_gets_its_name_without_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _refuse_once_named(monkeypatch, "replace", errno.ENOSYS)
    report = _report_of(tmp_path / "model")
    _assert_holds(tmp_path / "model", _NEW)
    assert os.listdir(tmp_path) == ["model"]
    assert report.fallbacks == ()  # by a link: as good as a rename
    with pytest.raises(fastio.WriteError, match="in_place"):
        _save(tmp_path / "model", _OLD)
    _assert_holds(tmp_path / "model", _NEW)


def test_a_new_file_gets_its_name_without_rename_and_link(
    lacking_mount: Mounted,
) -> None:
    """Only the last step shows it here, since space could be reserved."""
    mount = lacking_mount(rename=_NO_CALL, link=_NO_CALL)
    report = _report_of(mount.path / "model")
    _assert_holds(mount.source / "model", _NEW)
    assert any("written a second time" in line for line in report.fallbacks)
    assert _only(mount.source, 1), _names_below(mount.source)
