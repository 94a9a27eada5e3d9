"""Each tool of the testbed works as documented; the other tests rely on it."""

import ctypes
import errno
import fcntl
import mmap
import os
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import testbed
from samples import eventually
from testbed.mounts import overlay_mount

_SETUP_RING = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
fd = libc.syscall(425, {depth}, ctypes.create_string_buffer(120))
print("ring" if fd >= 0 else errno.errorcode[ctypes.get_errno()])
"""


def _read_direct(path: Path, nbytes: int, offset: int = 0) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, nbytes) as aligned:
            return bytes(aligned[: os.preadv(fd, [aligned], offset)])
    finally:
        os.close(fd)


def _loop_devices() -> str:
    return subprocess.run(["losetup", "--list"], capture_output=True, text=True, check=True).stdout


def test_a_file_is_resident_when_warmed_and_not_when_evicted(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(os.urandom(1 << 20))
    testbed.evict(file)
    assert testbed.resident_bytes(file) == 0
    with testbed.kept_warm(file):
        assert testbed.resident_bytes(file) == 1 << 20


def test_no_more_of_a_file_is_kept_warm_than_asked(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(os.urandom(4 << 20))
    testbed.evict(file)
    with testbed.kept_warm(file, 1 << 20):
        assert 1 << 20 <= testbed.resident_bytes(file) < 2 << 20


@pytest.mark.root
def test_a_file_that_is_kept_warm_stays_until_its_release(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(os.urandom(1 << 20))
    with testbed.kept_warm(file):
        testbed.drop_caches()
        assert testbed.resident_bytes(file) == 1 << 20
    testbed.evict(file)
    assert testbed.resident_bytes(file) == 0


def test_mincore_agrees_with_cachestat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_bytes(os.urandom(300_000))
    monkeypatch.setattr("testbed.residency._CACHESTAT", 1 << 20)  # no such system call: ENOSYS
    testbed.evict(file)
    assert testbed.resident_bytes(file) == 0
    with testbed.kept_warm(file):
        assert testbed.resident_bytes(file) == -(-300_000 // mmap.PAGESIZE) * mmap.PAGESIZE


@pytest.mark.root
def test_dropped_caches_hold_nothing_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(os.urandom(1 << 20))
    testbed.drop_caches()
    assert testbed.resident_bytes(file) == 0


@pytest.mark.root
@pytest.mark.parametrize("kind", ["ext4", "xfs", "tmpfs"])
def test_a_mount_is_of_its_kind(kind: str, request: pytest.FixtureRequest) -> None:
    mount: testbed.Mount = request.getfixturevalue(kind)
    lines = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    assert [line.split()[2] for line in lines if line.split()[1] == str(mount.path)] == [kind]


@pytest.mark.root
def test_storage_is_an_empty_folder_that_takes_direct_io(storage: Path) -> None:
    assert list(storage.iterdir()) == []
    (storage / "file").write_bytes(b"x" * 8192)
    assert _read_direct(storage / "file", 8192) == b"x" * 8192


@pytest.mark.root
def test_a_loop_mount_leaves_nothing_behind(tmp_path: Path) -> None:
    with testbed.loop_mount(tmp_path, "ext4", nbytes=64 << 20) as mount:
        assert str(mount.backing) in _loop_devices()
        assert mount.path.is_mount()
    assert str(tmp_path) not in _loop_devices()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.root
def test_a_mount_goes_even_while_a_test_holds_a_file_there(tmp_path: Path) -> None:
    with testbed.tmpfs_mount(tmp_path) as mount:
        held = (mount.path / "file").open("wb")
    held.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.root
def test_an_overlay_shows_the_layer_below_and_is_one(tmp_path: Path) -> None:
    with overlay_mount(tmp_path) as (path, lower):
        (lower / "file").write_bytes(b"below")
        assert (path / "file").read_bytes() == b"below"
        (path / "file").write_bytes(b"above")
        assert (lower / "file").read_bytes() == b"below"
    assert not os.path.ismount(path)


@pytest.mark.root
def test_mounts_are_seen_by_this_process_alone(tmpfs: testbed.Mount) -> None:
    outside = Path(f"/proc/{os.getppid()}/mounts").read_text(encoding="utf-8")
    assert str(tmpfs.path) not in outside


@pytest.mark.root
@pytest.mark.parametrize("read", [_read_direct, lambda path, n, at: path.read_bytes()[at : at + n]])
def test_a_failing_disk_gives_eio_from_the_given_offset(
    failing_mount: testbed.FailingMount, read: Callable[[Path, int, int], bytes]
) -> None:
    file = failing_mount.path / "file"
    file.write_bytes(b"x" * (4 << 20))
    failing_mount.fail_from(file, 2 << 20)
    assert _read_direct(file, 2 << 20, 0) == b"x" * (2 << 20)
    with pytest.raises(OSError, match="Input/output error") as raised:
        read(file, 4096, 2 << 20)
    assert raised.value.errno == errno.EIO


@pytest.mark.root
def test_a_throttled_disk_reads_at_the_given_rate(ext4: testbed.Mount) -> None:
    file = ext4.path / "throttled"
    nbytes = 32 << 20
    file.write_bytes(os.urandom(nbytes))
    testbed.evict(file)
    try:
        with testbed.throttled(ext4.path, read_bytes_s=nbytes * 2):
            begin = time.monotonic()
            for offset in range(0, nbytes, 4 << 20):
                _read_direct(file, 4 << 20, offset)
            seconds = time.monotonic() - begin
    finally:
        file.unlink()
    assert 0.3 < seconds < 2


@pytest.mark.parametrize("refusal", ["EPERM", "ENOSYS"])
def test_a_child_is_refused_io_uring(refusal: str) -> None:
    seccomp = "EPERM" if refusal == "EPERM" else "ENOSYS"
    result = testbed.run_python(_SETUP_RING.format(depth=8), seccomp=seccomp)  # type: ignore[arg-type]
    assert result.check().stdout.strip() == refusal


@pytest.mark.parametrize("refusal", ["EPERM", "ENOSYS"])
def test_a_child_is_refused_other_calls(refusal: str) -> None:
    code = "import os, sys; print(len(os.sched_getaffinity(0)))"
    assert int(testbed.run_python(code).check().stdout) > 0
    result = testbed.run_python(code, refuse={"sched_getaffinity": refusal})
    assert result.exception in ("builtins.OSError", "OSError", "PermissionError")
    assert str(getattr(errno, refusal)) in (result.message or "")


def test_a_child_is_refused_threads() -> None:
    code = "import threading; threading.Thread(target=print).start()"
    result = testbed.run_python(code, refuse={"clone": "EAGAIN", "clone3": "EAGAIN"})
    assert (result.exception, result.message) == ("RuntimeError", "can't start new thread")


@pytest.mark.root
@pytest.mark.parametrize(("memlock", "depth", "expected"), [(0, 8, "ENOMEM"), (8 << 20, 8, "ring")])
def test_locked_memory_binds_an_ordinary_user(memlock: int, depth: int, expected: str) -> None:
    code = _SETUP_RING.format(depth=depth)
    said = testbed.run_python(code, memlock=memlock, uid=65534).check().stdout.strip()
    if said in ("EPERM", "ENOSYS"):
        pytest.skip(f"no io_uring here: {said}")
    assert said == expected


@pytest.mark.root
def test_another_user_reads_a_private_folder_but_owns_and_writes_nothing(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    file = tmp_path / "file"
    file.write_bytes(b"bytes")
    code = """
import os, sys
print(open(sys.argv[1]).read(), os.getuid(), os.getgroups(), os.access(sys.argv[1], os.W_OK))
open(sys.argv[1], "ab")
"""
    result = testbed.run_python(code, file, uid=65534)
    assert result.stdout.split() == ["bytes", "65534", "[]", "False"]
    assert result.exception == "PermissionError"


@pytest.mark.root
def test_another_user_cannot_see_that_a_file_is_evicted(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 8192)
    testbed.evict(file)
    code = """
import sys
sys.path.insert(0, sys.argv[2])
from testbed import resident_bytes
print(resident_bytes(sys.argv[1]))
"""
    result = testbed.run_python(code, file, Path(__file__).parent, uid=65534)
    # cachestat refuses; kernels without it use mincore, which calls the whole file cached.
    assert result.exception == "PermissionError" or result.stdout == "8192\n"


def test_a_child_reports_its_exception_and_its_end() -> None:
    result = testbed.run_python("import json; print(1); json.loads('{')")
    assert (result.returncode, result.stdout, result.exception) == (
        1,
        "1\n",
        "json.decoder.JSONDecodeError",
    )
    assert result.message is not None
    assert result.message.startswith("Expecting property name")
    assert testbed.run_python("import os; os.abort()").returncode == -6
    assert (
        testbed.run_python(
            "import os, sys; print(os.environ['A'], *sys.argv[1:])", "b", env={"A": "a"}
        )
        .check()
        .stdout
        == "a b\n"
    )


def test_strace_injects_into_the_reads_of_one_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 4096)
    code = """
import os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
print(len(os.pread(fd, 4096, 0)))
os.pread(fd, 4096, 0)
"""
    result = testbed.run_python(code, file, inject=["pread64:error=EIO:when=2"], inject_path=file)
    if "ptrace" in result.stderr and result.returncode:
        pytest.skip("this machine refuses strace")
    assert result.stdout.strip() == "4096"
    assert (result.exception, "Input/output error" in (result.message or "")) == ("OSError", True)
    assert "(INJECTED)" in result.trace


@pytest.mark.parametrize("direct", [True, False])
def test_a_slow_mount_delays_reads_by_the_given_time(
    slow_mount: testbed.SlowMount, direct: bool
) -> None:
    (slow_mount.source / "file").write_bytes(b"x" * 4096)
    path = slow_mount.path / "file"
    slow_mount.delay(0.2)
    begin = time.monotonic()
    assert (_read_direct(path, 4096) if direct else path.read_bytes()) == b"x" * 4096
    assert time.monotonic() - begin >= 0.2


def test_a_slow_mount_serves_many_reads_at_once(slow_mount: testbed.SlowMount) -> None:
    (slow_mount.source / "file").write_bytes(b"x" * (32 * 4096))
    slow_mount.delay(0.3)
    begin = time.monotonic()
    with ThreadPoolExecutor(32) as pool:
        offsets = range(0, 32 * 4096, 4096)
        assert (
            list(
                pool.map(lambda at: len(_read_direct(slow_mount.path / "file", 4096, at)), offsets)
            )
            == [4096] * 32
        )
    assert 0.3 <= time.monotonic() - begin < 2


def test_a_hung_mount_answers_when_it_is_released(slow_mount: testbed.SlowMount) -> None:
    (slow_mount.source / "file").write_bytes(b"x" * 4096)
    slow_mount.hang()
    answered = threading.Event()

    def read() -> None:
        _read_direct(slow_mount.path / "file", 4096)
        answered.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert not answered.wait(0.3)
    slow_mount.release()
    assert answered.wait(10)
    reader.join()


def test_a_hung_mount_is_cleaned_up_after_a_failure(slow_filesystem: Path, tmp_path: Path) -> None:
    def read_and_fail() -> None:
        with testbed.slow_mount(slow_filesystem, tmp_path) as mount:
            (mount.source / "file").write_bytes(b"x" * 4096)
            mount.hang()
            readers.append(
                subprocess.Popen(["cat", mount.path / "file"], stdout=subprocess.DEVNULL)
            )
            raise KeyError("a test that fails")

    readers: list[subprocess.Popen[bytes]] = []
    with pytest.raises(KeyError, match="a test that fails"):
        read_and_fail()
    assert readers[0].wait(10) is not None
    assert not (tmp_path / "mnt").is_mount()
    assert list((tmp_path / "mnt").iterdir()) == []


_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL


def _write_at(path: Path, offset: int) -> None:
    fd = os.open(path, _NEW)
    try:
        os.pwrite(fd, b"x", offset)
    finally:
        os.close(fd)


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _fallocate(path: Path) -> None:
    """The call itself; os.posix_fallocate writes bytes if the call is missing."""
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("r+b") as file:
        if libc.fallocate(file.fileno(), 0, ctypes.c_long(0), ctypes.c_long(10)) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(100)


def _lock(path: Path) -> None:
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


_LACKS: dict[str, Callable[[Path], object]] = {
    "rename": lambda path: path.rename(path.with_name("other")),
    "link": lambda path: path.with_name("other").hardlink_to(path),
    "truncate": _truncate,
    "fallocate": _fallocate,
    "chmod": lambda path: path.chmod(0o640),
    "chown": lambda path: os.chown(path, os.getuid(), os.getgid()),
    "fsync": _fsync,
    "fsyncdir": lambda path: _fsync(path.parent),
    "flock": _lock,
    "direct": lambda path: os.close(os.open(path, os.O_RDONLY | os.O_DIRECT)),
    "order": lambda path: _write_at(path.with_name("other"), 1),
    "overwrite": lambda path: os.close(os.open(path, os.O_WRONLY)),
}
_WRITES = ("truncate", "fallocate")


@pytest.mark.parametrize("call", _LACKS)
def test_a_lacking_mount_refuses_exactly_the_given_calls(
    lacking_mount: Callable[..., testbed.LackingMount], call: str
) -> None:
    mount = lacking_mount(**{call: errno.EOPNOTSUPP})
    (mount.source / "file").write_bytes(b"x" * 100)
    for other, use in _LACKS.items():
        (mount.path / "other").unlink(missing_ok=True)
        path = mount.path / "file"
        if other == call or (call == "overwrite" and other in _WRITES):
            continue
        use(path)
        if other == "rename":
            (mount.path / "other").rename(path)
    with pytest.raises(OSError, match=os.strerror(errno.EOPNOTSUPP)) as raised:
        _LACKS[call](mount.path / "file")
    assert raised.value.errno == errno.EOPNOTSUPP


def test_a_lacking_mount_is_full_at_the_given_byte(
    lacking_mount: Callable[..., testbed.LackingMount],
) -> None:
    mount = lacking_mount(full=10)
    path = mount.path / "file"
    path.write_bytes(b"x" * 10)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        path.write_bytes(b"x" * 11)


def test_a_refused_write_gives_up_a_file_that_takes_its_bytes_in_order(
    lacking_mount: Callable[..., testbed.LackingMount],
) -> None:
    mount = lacking_mount(order=errno.EINVAL)
    fd = os.open(mount.path / "file", _NEW)
    assert os.pwrite(fd, b"0123", 0) == 4
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
        os.pwrite(fd, b"x", 9)
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
        os.pwrite(fd, b"4567", 4)
    os.close(fd)
    assert eventually(lambda: os.listdir(mount.source) == [])


def test_something_happens_before_each_line_of_a_call(tmp_path: Path) -> None:
    (tmp_path / "called.py").write_text(
        """
def call(seen):
    for n in range(2):
        seen.append(n)
    return seen
"""
    )
    code = """
import importlib.util, sys, time
from testbed.lines import Interrupted, at_each_line
spec = importlib.util.spec_from_file_location("called", sys.argv[1] + "/called.py")
called = importlib.util.module_from_spec(spec)
spec.loader.exec_module(called)
seen, before, ends = [], [], []
def inside():
    before.append(list(seen))
    if len(before) == 2:
        raise Interrupted
def rounds(inside, **more):
    return at_each_line(sys.argv[1], lambda: called.call(seen), inside, begin=seen.clear, **more)
print(rounds(inside, end=lambda: ends.append(list(seen))), before, ends, flush=True)
rounds(lambda: time.sleep(60), hangs_after_s=0.5)
"""
    tests = str(Path(testbed.__file__).parent.parent)
    done = testbed.run_python(code, tmp_path, env={"PYTHONPATH": tests})
    assert done.stdout == "3 [[], [], [0, 1]] [[0, 1], [], [0, 1]]\n"
    assert "Timeout" in done.stderr
    assert done.returncode != 0


@pytest.mark.root
def test_a_frozen_filesystem_answers_reads_and_hangs_on_writes(ext4: testbed.Mount) -> None:
    path = ext4.path / "frozen"
    path.write_bytes(b"before")
    made = threading.Event()

    def change() -> None:
        (ext4.path / "made").mkdir()
        made.set()

    with testbed.frozen(ext4):
        changing = threading.Thread(target=change)
        changing.start()
        assert path.read_bytes() == b"before"
        assert not made.wait(0.2)
    changing.join(60)
    assert made.is_set()
    (ext4.path / "made").rmdir()
