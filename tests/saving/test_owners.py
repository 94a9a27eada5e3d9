"""Owner, group, mode and access list of a replaced file. They stay if possible, a loss is reported,
and the file is never more open than before.
"""

import errno
import itertools
import os
import stat
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastio
import fastio.numpy
import testbed
from fastio.host.replacement import Replacement
from fastio.saving.turns import Turn, key_of
from testbed.requirements import run_tool

_NEW = {"new": np.arange(300, dtype=np.float32)}
_ACL, _DEFAULT_ACL = "system.posix_acl_access", "system.posix_acl_default"
_TEAM, _STRANGER = 23000, 24000
_fresh_ids = itertools.count(30000)  # the loss of one owner is reported once a mount


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _ids(path: Path) -> tuple[int, int]:
    return path.stat().st_uid, path.stat().st_gid


def _save(path: Path) -> Path:
    fastio.save(_NEW, path)
    return path


def _drop_in(path: Path) -> Path:
    fastio.numpy.save_file(_NEW, path)
    return path


def _seal(path: Path) -> Path:
    fastio.numpy.save_file(_NEW, path.with_name("source"))
    return fastio.seal(path.with_name("source"), path)


def _background(path: Path) -> Path:
    return fastio.start_save(_NEW, path).result()


@pytest.fixture(params=[_save, _drop_in, _seal, _background])
def save_over(request: pytest.FixtureRequest) -> Any:
    """Each way to replace one file."""
    return request.param


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return fastio.save({"old": np.arange(5)}, tmp_path / "model.safetensors")


@pytest.fixture
def events() -> Iterator[list[fastio.Event]]:
    """The events that `fastio.on_event` receives."""
    told: list[fastio.Event] = []
    before = fastio.on_event(told.append)
    yield told
    fastio.on_event(before)


def _refuse(monkeypatch: pytest.MonkeyPatch, call: str, code: int) -> None:
    def refusing(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, refusing)


# ---- owner and group


_SAVE_OVER = """
import sys, numpy, fastio
from pathlib import Path
fastio.save({"new": numpy.arange(3.0)}, sys.argv[1])
print(*fastio.load(sys.argv[1], verify="require"))
"""


@pytest.mark.root
def test_a_member_of_the_files_group_keeps_it_in_a_folder_without_setgid(old: Path) -> None:
    old.chmod(0o664)
    old.parent.chmod(0o777)
    os.chown(old, _STRANGER, _TEAM)
    done = testbed.run_python(_SAVE_OVER, old, uid=1500, groups=[_TEAM]).check()
    assert done.stdout.split() == ["new"]
    assert (_ids(old), _mode(old)) == ((1500, _TEAM), 0o664)
    assert f"the owner of the replaced file ({_STRANGER}:{_TEAM})" in done.stderr


@pytest.mark.root
@pytest.mark.parametrize(
    ("before", "after"),
    [(0o660, 0o600), (0o664, 0o644), (0o666, 0o666), (0o604, 0o600), (0o646, 0o644)],
)
def test_a_new_group_gets_no_more_rights_than_others_had(
    old: Path, before: int, after: int
) -> None:
    old.parent.chmod(0o777)
    os.chown(old, _STRANGER, _TEAM)
    old.chmod(before)
    testbed.run_python(_SAVE_OVER, old, uid=1500).check()
    assert (_ids(old), _mode(old)) == ((1500, 1500), after)


@pytest.mark.root
@pytest.mark.parametrize("before", [0o660, 0o664])
def test_a_group_that_a_namespace_does_not_know_is_not_taken_for_its_own(before: int) -> None:
    """There every unknown id reads as 65534: the writer's and the file's."""
    code = """
import ctypes, numpy, fastio
if ctypes.CDLL(None).unshare(0x10000000):  # CLONE_NEWUSER
    raise SystemExit("refused")
"""
    with tempfile.TemporaryDirectory() as folder:  # not below one that is closed to others
        old = fastio.save({"old": np.arange(5)}, Path(folder) / "model.safetensors")
        old.parent.chmod(0o777)
        os.chown(old, _STRANGER, _TEAM)
        old.chmod(before)
        # A process with threads gets no namespace.
        env = {"OPENBLAS_NUM_THREADS": "1"}
        done = testbed.run_python(code + _SAVE_OVER, old, uid=1500, env=env)
        if "refused" in done.stderr:
            pytest.skip("this machine refuses user namespaces")
        assert "the owner and group of the replaced file" in done.check().stderr
        rights = before & 0o7
        assert (_ids(old), _mode(old)) == ((1500, 1500), 0o600 | rights << 3 | rights)


@pytest.mark.root
@pytest.mark.parametrize(
    "under",
    [
        ("unshare", "-Ur", "--"),
        ("setpriv", "--bounding-set", "-chown", "--inh-caps", "-chown"),
        ("setpriv", "--bounding-set=-all", "--inh-caps=-all"),
    ],
    ids=["a namespace with one id", "no CAP_CHOWN", "no capabilities"],
)
@pytest.mark.parametrize(
    "save",
    [
        "fastio.save(tensors, path)",
        "fastio.numpy.save_file(tensors, path)",
        "fastio.seal(path)",
        "fastio.save(tensors, path.parent / 'checkpoint', shard_bytes=1000)",
    ],
)
def test_root_without_the_power_to_give_files_away_saves_all_the_same(
    tmp_path: Path, under: tuple[str, ...], save: str
) -> None:
    tmp_path.chmod(0o777)
    (tmp_path / "file").mkdir(mode=0o777)
    (tmp_path / "file").chmod(0o777)
    path = tmp_path / "file" / "model.safetensors"
    fastio.save({"old": np.arange(5)}, path, checksums=False)
    fastio.save({"old": np.arange(5)}, path.parent / "checkpoint", shard_bytes=1000)
    for below in path.parent.rglob("*"):
        os.chown(below, _STRANGER, _TEAM)
        below.chmod(0o777 if below.is_dir() else 0o666)
    code = f"""
import sys, numpy, fastio, fastio.numpy
from pathlib import Path
path, tensors = Path(sys.argv[1]), {{"new": numpy.arange(300.0)}}
events = []
fastio.on_event(events.append)
{save}
print(len(events), events[0].kind if events else "")
"""
    done = testbed.run_python(code, path, under=under)
    if done.returncode != 0 and "unshare" in done.stderr:
        pytest.skip(f"this machine refuses user namespaces: {done.stderr.strip()}")
    # The index and its shard lie in one folder: their common loss is reported once.
    assert done.check().stdout.split() == ["1", "fallback"]
    changed = path if "checkpoint" not in save else path.parent / "checkpoint"
    assert list(fastio.load(changed, verify="require")) == (["old"] if "seal" in save else ["new"])
    assert not [name for name in os.listdir(path.parent) if "fastio-tmp" in name]


@pytest.mark.root
@pytest.mark.parametrize(
    "code", [errno.EPERM, errno.EINVAL, errno.EOVERFLOW, errno.ENOSYS, errno.EOPNOTSUPP]
)
def test_a_lost_owner_is_logged_once_and_is_in_each_report(
    old: Path,
    monkeypatch: pytest.MonkeyPatch,
    events: list[fastio.Event],
    code: int,
) -> None:
    owner = next(_fresh_ids)
    _refuse(monkeypatch, "fchown", code)
    for _ in range(2):
        os.chown(old, owner, owner)
        report = fastio.Report()
        fastio.save(_NEW, old, report=report)
        (line,) = report.fallbacks
        assert f"({owner}:{owner})" in line
        assert errno.errorcode[code] in line
    (event,) = events
    assert (event.kind, event.path) == ("fallback", str(old))
    assert _ids(old) == (os.getuid(), os.getgid())


@pytest.mark.root
def test_a_real_failure_to_give_a_file_away_is_an_error(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.chown(old, _STRANGER, _TEAM)
    _refuse(monkeypatch, "fchown", errno.EIO)
    with pytest.raises(fastio.WriteError) as raised:
        fastio.save(_NEW, old)
    assert (raised.value.errno, raised.value.operation) == (errno.EIO, "fchown")
    assert raised.value.path == str(old)
    assert list(fastio.load(old)) == ["old"]


@pytest.mark.root
def test_setuid_and_setgid_go_with_the_owner_and_the_group_that_they_were_for(
    old: Path, monkeypatch: pytest.MonkeyPatch, save_over: Callable[[Path], Path]
) -> None:
    os.chown(old, _STRANGER, _TEAM)
    old.chmod(0o6755)
    save_over(old)
    assert (_ids(old), _mode(old)) == ((_STRANGER, _TEAM), 0o6755)
    _refuse(monkeypatch, "fchown", errno.EPERM)
    save_over(old)
    assert _mode(old) == 0o755


# ---- mode


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_mode_that_is_right_already_need_not_be_set(
    old: Path,
    monkeypatch: pytest.MonkeyPatch,
    events: list[fastio.Event],
    code: int,
    save_over: Callable[[Path], Path],
) -> None:
    old.chmod(0o600)
    _refuse(monkeypatch, "fchmod", code)
    save_over(old)
    assert (list(fastio.load(old)), _mode(old), events) == (["new"], 0o600, [])


def test_a_mode_that_cannot_be_set_is_reported_and_the_file_stays_tight(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old.chmod(0o644)
    _refuse(monkeypatch, "fchmod", errno.ENOSYS)
    report = fastio.Report()
    fastio.save(_NEW, old, report=report)
    assert _mode(old) == 0o600
    (line,) = report.fallbacks
    assert "the mode 644 cannot be set here (ENOSYS); the file has 600" in line


def test_a_file_that_would_be_more_open_than_the_one_before_does_not_take_its_place(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old.chmod(0o600)
    _refuse(monkeypatch, "fchmod", errno.EPERM)
    replacement = Replacement(old, 0o666)
    with pytest.raises(fastio.WriteError, match="open to more than 600 allows") as raised:
        replacement.imitate(old.stat())
    replacement.close()
    assert raised.value.operation == "fchmod"
    assert os.listdir(old.parent) == [old.name]


def test_a_read_only_file_is_replaced_by_one(old: Path, save_over: Callable[[Path], Path]) -> None:
    old.chmod(0o444)
    save_over(old)
    assert (list(fastio.load(old)), _mode(old)) == (["new"], 0o444)


def test_no_umask_opens_or_shuts_a_file_that_is_replaced(
    old: Path, save_over: Callable[[Path], Path]
) -> None:
    for umask, mode in itertools.product((0o000, 0o077), (0o664, 0o640, 0o600)):
        old.chmod(mode)
        before = os.umask(umask)
        try:
            save_over(old)
        finally:
            os.umask(before)
        assert _mode(old) == mode


def test_a_file_that_replaces_a_symlink_has_the_mode_of_its_target(
    old: Path, save_over: Callable[[Path], Path]
) -> None:
    old.chmod(0o600)
    link = old.with_name("link.safetensors")
    link.symlink_to(old.name)
    save_over(link)
    assert not link.is_symlink()
    assert _mode(link) == 0o600
    assert list(fastio.load(old)) == ["old"]


def test_the_mode_of_a_file_removed_after_the_call_is_kept(old: Path, tmp_path: Path) -> None:
    """Of saves that wait for each other, one removes the shards that the next one took its mode
    from.
    """
    old.chmod(0o664)
    with Turn(key_of(old)):
        handle = fastio.start_save(_NEW, old)
        old.unlink()
    assert _mode(handle.result()) == 0o664
    folder = tmp_path / "folder"
    fastio.save(_NEW, folder, shard_bytes=2**20)
    for file in folder.iterdir():
        file.chmod(0o664)
    with Turn(key_of(folder)):
        handles = [fastio.start_save(_NEW, folder, shard_bytes=2**20) for _ in range(3)]
    for handle in handles:
        handle.result()
    assert {_mode(file) for file in folder.iterdir()} == {0o664}


@pytest.mark.parametrize("umask", [0o022, 0o000])
def test_new_shards_have_the_mode_of_those_before(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        folder = fastio.save({"old": np.arange(9)}, tmp_path / "folder", shard_bytes=10)
        for _ in range(3):
            for path in folder.iterdir():
                path.chmod(0o600)
            fastio.save(_NEW, folder, shard_bytes=10)
            assert {
                path.name: _mode(path) for path in folder.iterdir() if _mode(path) != 0o600
            } == {}
    finally:
        os.umask(before)


@pytest.mark.root
def test_new_shards_belong_to_whom_those_before_did(tmp_path: Path) -> None:
    folder = fastio.save({"old": np.arange(9)}, tmp_path / "folder", shard_bytes=10)
    for _ in range(3):
        for path in folder.iterdir():
            os.chown(path, _STRANGER, _TEAM)
        fastio.save(_NEW, folder, shard_bytes=10)
        assert {_ids(path) for path in folder.iterdir()} == {(_STRANGER, _TEAM)}


def test_shards_that_replace_one_file_have_its_mode(tmp_path: Path) -> None:
    single = fastio.save({"old": np.arange(9)}, tmp_path / "model.safetensors")
    single.chmod(0o600)
    fastio.save(_NEW, tmp_path, shard_bytes=10)
    assert _mode(next(tmp_path.glob("model-*.safetensors"))) == 0o600


# ---- access lists


def _acl(*entries: tuple[int, int, int]) -> bytes:
    """A list of (tag, rights, id), as linux/posix_acl_xattr.h has it."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


_NOBODY = 0xFFFFFFFF
# rw for the owner, for one user and under the mask; nothing for the group and others.
_ONE_USER_MORE = _acl(
    (0x01, 6, _NOBODY), (0x02, 6, 1600), (0x04, 0, _NOBODY), (0x10, 6, _NOBODY), (0x20, 0, _NOBODY)
)


@pytest.fixture
def listed(ext4: testbed.Mount, tmp_path: Path) -> Iterator[Path]:
    """A file with an access control list, in a folder without one."""
    folder = ext4.path / tmp_path.name
    folder.mkdir()
    path = fastio.save({"old": np.arange(5)}, folder / "model.safetensors")
    try:
        os.setxattr(path, _ACL, _ONE_USER_MORE)
    except OSError as error:
        pytest.skip(f"needs POSIX access control lists: {error}")
    yield path
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


@pytest.mark.root
def test_the_access_list_stays(listed: Path, save_over: Callable[[Path], Path]) -> None:
    mode = _mode(listed)
    save_over(listed)
    assert (os.getxattr(listed, _ACL), _mode(listed)) == (_ONE_USER_MORE, mode)


@pytest.mark.root
def test_a_lost_access_list_is_reported_and_gives_no_access(
    listed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The group bits of the mode are then the mask; as rights of the group they would open the
    file.
    """
    assert _mode(listed) == 0o660
    _refuse(monkeypatch, "setxattr", errno.EOPNOTSUPP)
    report = fastio.Report()
    fastio.save(_NEW, listed, report=report)
    assert (_mode(listed), _ACL in os.listxattr(listed)) == (0o600, False)
    assert "the access control list of the replaced file cannot be kept" in report.fallbacks[0]


@pytest.mark.root
def test_a_list_that_the_folder_gives_new_files_does_not_open_one_that_replaces(
    listed: Path, save_over: Callable[[Path], Path]
) -> None:
    os.removexattr(listed, _ACL)
    listed.chmod(0o640)
    os.setxattr(listed.parent, _DEFAULT_ACL, _ONE_USER_MORE)
    save_over(listed)
    assert (_mode(listed), _ACL in os.listxattr(listed)) == (0o640, False)


@pytest.mark.root
def test_a_lost_group_has_no_more_rights_by_the_list_than_others(
    listed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.setxattr(
        listed, _ACL, _ONE_USER_MORE.replace(struct.pack("<HH", 4, 0), struct.pack("<HH", 4, 6))
    )
    os.chown(listed, 0, _TEAM)
    _refuse(monkeypatch, "fchown", errno.EPERM)
    fastio.save(_NEW, listed)
    assert os.getxattr(listed, _ACL) == _ONE_USER_MORE


# ---- a store's files


def test_a_store_is_made_on_a_filesystem_without_modes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files and folders begin with the tightest mode, and keep it."""
    for call in ("chmod", "fchmod"):
        _refuse(monkeypatch, call, errno.EPERM)
    store = fastio.Store.create([tmp_path / "root"], replicas=1, mode=0o644)
    store.save(_NEW)
    store.save({"more": np.arange(9)})
    assert list(fastio.load(tmp_path / "root", verify="require")) == ["more"]
    modes = {path.name: _mode(path) for path in (tmp_path / "root").rglob("*")}
    del modes["lock"]  # made with its mode
    assert {mode & 0o077 for mode in modes.values()} == {0}


def test_a_store_names_the_call_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _refuse(monkeypatch, "fchmod", errno.EIO)
    with pytest.raises(fastio.WriteError) as raised:
        fastio.Store.create([tmp_path / "root"], replicas=1, mode=0o640)
    assert (raised.value.errno, raised.value.operation) == (errno.EIO, "fchmod")


# ---- why a file cannot be replaced


@pytest.mark.root
@pytest.mark.parametrize(("flag", "word"), [("i", "immutable"), ("a", "append-only")])
def test_a_file_that_is_fixed_says_so(
    ext4: testbed.Mount, tmp_path: Path, flag: str, word: str
) -> None:
    testbed.require_tools("chattr")
    folder = ext4.path / tmp_path.name
    folder.mkdir()
    path = fastio.save({"old": np.arange(5)}, folder / "model.safetensors")
    run_tool("chattr", f"+{flag}", str(path))
    try:
        with pytest.raises(fastio.WriteError, match=word) as raised:
            fastio.save(_NEW, path)
    finally:
        run_tool("chattr", f"-{flag}", str(path))
    assert (raised.value.errno, raised.value.operation) == (errno.EPERM, "rename")
    assert (list(fastio.load(path)), os.listdir(folder)) == (["old"], [path.name])
    path.unlink()
    folder.rmdir()


@pytest.mark.root
def test_a_sticky_folder_says_so(old: Path) -> None:
    old.chmod(0o666)
    old.parent.chmod(0o1777)
    os.chown(old, _STRANGER, _TEAM)
    os.chown(old.parent, _STRANGER, _TEAM)
    done = testbed.run_python(_SAVE_OVER, old, uid=1500)
    assert done.exception == "fastio.errors.WriteError"
    assert "sticky" in (done.message or "")
    assert "in_place" in (done.message or "")
    assert list(fastio.load(old)) == ["old"]


def test_a_folder_that_may_be_written_to_and_not_read_takes_a_save(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its fsync fails; the file is in place, and no error contradicts that."""
    real = os.open

    def refusing(path: Any, flags: int, *more: Any, **named: Any) -> int:
        nameless = flags & os.O_TMPFILE == os.O_TMPFILE
        if flags & os.O_DIRECTORY and not flags & os.O_PATH and not nameless:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path, flags, *more, **named)

    monkeypatch.setattr(os, "open", refusing)
    report = fastio.Report()
    fastio.save(_NEW, old, report=report)
    assert list(fastio.load(old)) == ["new"]
    assert "fsync of a folder is refused here (EACCES)" in report.fallbacks[0]
