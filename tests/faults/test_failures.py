"""A failed save names the operation, the file and the reason. It leaves the old files, and nothing
else.
"""

import errno
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fastio
import testbed
from faults.samples import (
    BLOCK_BYTES,
    BLOCKS,
    NEW,
    NEXT,
    NOTHING,
    OLD,
    Engine,
    Shape,
    bytes_below,
    held,
    many_at_once,
    one_by_one,
    place,
    save,
    strays,
)
from samples import data_start, eventually, open_files

Faults = Callable[..., None]

# Reports the failure while the error is still held: whether the old files are intact and alone, the
# number of new descriptors, and the checkpoint at the path. Then saves once more.
_SAVE_TWICE = """
path, seed, again, shape, engine, beginning = argv
if beginning == "named":
    refuse_nameless()
folder = Path(path).parent
files, descriptors = bytes_below(folder), len(os.listdir("/proc/self/fd"))
def state():
    more = lambda: len(os.listdir("/proc/self/fd")) - descriptors
    eventually(lambda: more() == 0)  # lanes are on their way out
    return [bytes_below(folder) == files, more(), strays(Path(path))]
try:
    save(path, seed, shape, in_few_writes(engine))
except fastio.WriteError as error:
    say([error.errno, error.operation, error.path, *state(), held(Path(path))])
else:
    say([0, "", "", *state(), held(Path(path))])
save(path, again, shape, in_few_writes(engine), durable=False)
say("saved")
"""


def _each_call(
    forks: testbed.Forks, path: Path, shape: Shape, engine: Engine, beginning: str
) -> Iterator[tuple[testbed.Stop, testbed.Ended]]:
    """Let each call of a save fail in turn; the old checkpoint is there again each time."""
    save(path, OLD, shape, one_by_one(engine), durable=False)
    for n in itertools.count():
        ended = forks.run(_SAVE_TWICE, path, NEW, OLD, shape, engine, beginning, at=_failing_at(n))
        failed = ended.stops[n]
        if ended.exception is not None and ended.said[0][0] == 0:
            assert failed.name == "fallocate"  # the first call of the second save
            return
        ended.check()
        assert ended.said[-1] == "saved"
        yield failed, ended


def _failing_at(n: int) -> Callable[[testbed.Stop], testbed.Answer]:
    return lambda stop: testbed.fail_with(errno.EIO) if stop.at == n else testbed.GO_ON


def test_a_failure_of_any_call_leaves_the_old_checkpoint_bit_for_bit(
    forks: testbed.Forks,
    tmp_path: Path,
    engine: Engine,
    shape: Shape,
    beginning: str,
) -> None:
    path = place(tmp_path, shape)
    folder = tmp_path if shape == "file" else path
    operations = {
        "pwrite64": "write",
        "linkat": "link",
        "renameat2": "rename",
    }
    seen = set()
    for failed, ended in _each_call(forks, path, shape, engine, beginning):
        told, operation, blamed, unchanged, more_descriptors, left, seed = ended.said[0]
        what = f"{failed} {ended.said[0]}"
        seen.add(failed.name)
        assert more_descriptors == 0, what
        assert held(path) == OLD
        if failed.name == "unlink":
            assert (told, seed) == (0, NEW), what
            continue
        assert told == errno.EIO, what
        assert operation == operations.get(failed.name, failed.name), what
        assert blamed.startswith(str(path)), what
        if unchanged:
            assert (left, seed) == ([], OLD), what
        else:  # it had its name already, but the fsync of the folder failed
            assert (failed.name, failed.path, seed) == ("fsync", str(folder), NEW), what
    assert {"fallocate", "ftruncate", "pwrite64", "fchmod", "fsync", "rename"} <= seen
    assert strays(path) == []


def test_a_failed_fsync_is_not_tried_again(
    forks: testbed.Forks, tmp_path: Path, engine: Engine, shape: Shape
) -> None:
    path = place(tmp_path, shape)
    synced: list[str] = []

    def fail_all(stop: testbed.Stop) -> testbed.Answer:
        if stop.name != "fsync" or stop.path == str(tmp_path):
            return testbed.GO_ON
        synced.append(stop.path)
        return testbed.fail_with(errno.EIO)

    code = "path, seed, shape, engine = argv\nsave(path, seed, shape, one_by_one(engine))"
    ended = forks.run(code, path, NEW, shape, engine, at=fail_all)
    assert ended.exception == "fastio.errors.WriteError"
    assert (ended.error["errno"], ended.error["operation"]) == (errno.EIO, "fsync")
    assert ended.error["path"].startswith(str(path))
    assert len(synced) == 1
    assert (held(path), strays(path)) == (NOTHING, [])


@pytest.mark.parametrize("error", [errno.EOPNOTSUPP, errno.EINVAL], ids=errno.errorcode.get)
def test_without_a_reservation_of_space_the_save_goes_on(
    forks: testbed.Forks, tmp_path: Path, engine: Engine, shape: Shape, error: int
) -> None:
    path = place(tmp_path, shape)
    code = "path, seed, shape, engine = argv\nsave(path, seed, shape, one_by_one(engine))"
    forks.run(
        code,
        path,
        NEW,
        shape,
        engine,
        at=lambda stop: testbed.fail_with(error) if stop.name == "fallocate" else testbed.GO_ON,
    ).check()
    assert held(path) == NEW


def _unharmed(path: Path, attempt: Callable[[], Any]) -> fastio.WriteError:
    """Failures of a save that leave all files, open ones included, as they were."""
    files, descriptors = bytes_below(path.parent), open_files()
    with pytest.raises(fastio.WriteError) as raised:
        attempt()
    assert bytes_below(path.parent) == files
    assert eventually(lambda: open_files() <= descriptors)
    return raised.value


@pytest.mark.parametrize("at", [0, 2, BLOCKS - 1])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC], ids=errno.errorcode.get)
def test_a_failed_write_names_the_file_and_the_place(
    tmp_path: Path, engine: Engine, cache: Any, faults: Faults, at: int, error: int
) -> None:
    path = place(tmp_path, "file")
    save(path, OLD, "file", one_by_one(engine))
    start = data_start(path)
    faults((at, "error", error))
    raised = _unharmed(path, lambda: save(path, NEW, "file", one_by_one(engine, cache=cache)))
    assert (raised.errno, raised.operation, raised.path) == (error, "write", str(path))
    assert raised.offset == start + at * BLOCK_BYTES
    faults()
    save(path, NEXT, "file", many_at_once(engine, cache=cache))
    assert held(path) == NEXT


def test_a_failed_write_of_a_shard_leaves_the_folder_as_it_was(
    tmp_path: Path, engine: Engine, cache: Any, faults: Faults
) -> None:
    path = place(tmp_path, "folder")
    save(path, OLD, "folder", one_by_one(engine))
    for at in range(BLOCKS):
        faults((at, "error", errno.EIO))
        raised = _unharmed(
            path, lambda: save(path, NEW, "folder", many_at_once(engine, cache=cache))
        )
        assert raised.operation == "write"
        assert Path(raised.path).parent == path
    faults()
    save(path, NEXT, "folder", many_at_once(engine, cache=cache))
    assert (held(path), strays(path)) == (NEXT, [])


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.EINTR], ids=["EAGAIN", "EINTR"])
def test_a_call_that_returns_eagain_is_tried_again(
    tmp_path: Path, engine: Engine, cache: Any, shape: Shape, faults: Faults, code: int
) -> None:
    path = place(tmp_path, shape)
    faults(*((at, "error", code) for at in range(0, 3 * BLOCKS, 2)))
    save(path, NEW, shape, many_at_once(engine, cache=cache))
    assert held(path) == NEW


@pytest.mark.parametrize("nbytes", [1, 511, 4096, 4097, 40_000, BLOCK_BYTES - 1])
def test_a_short_write_is_resumed(
    tmp_path: Path, engine: Engine, cache: Any, faults: Faults, nbytes: int
) -> None:
    path = place(tmp_path, "file")
    # The skipped bytes are a hole: a save that only assumed the write would leave it.
    faults((0, "short", nbytes), (3, "short", nbytes), (4, "short", nbytes))
    save(path, NEW, "file", one_by_one(engine, cache=cache))
    assert held(path) == NEW


def test_faults_of_all_kinds_at_once_are_survived(
    tmp_path: Path, engine: Engine, cache: Any, shape: Shape, faults: Faults
) -> None:
    kinds = [
        ("short", 20_001),
        ("error", errno.EINTR),
        ("reorder", 0),
        ("late", 5),
        ("error", errno.EAGAIN),
    ]
    path = place(tmp_path, shape)
    faults(*((at, *kinds[at % len(kinds)]) for at in range(4 * BLOCKS)))
    save(path, NEW, shape, many_at_once(engine, cache=cache))
    assert held(path) == NEW


def test_a_disk_that_writes_no_bytes_is_an_error(
    tmp_path: Path, engine: Engine, cache: Any, shape: Shape, faults: Faults
) -> None:
    path = place(tmp_path, shape)
    save(path, OLD, shape, one_by_one(engine))
    faults(*((at, "zero", 0) for at in range(1, 1000)))
    raised = _unharmed(path, lambda: save(path, NEW, shape, one_by_one(engine, cache=cache)))
    assert (raised.errno, raised.operation) == (errno.EIO, "write")
    assert "no progress" in str(raised)


def test_a_disk_that_writes_no_bytes_of_a_header_is_an_error(
    forks: testbed.Forks, tmp_path: Path, engine: Engine, shape: Shape
) -> None:
    path = place(tmp_path, shape)
    seen: list[str] = []

    def write_nothing(stop: testbed.Stop) -> testbed.Answer:
        seen.append(stop.name)
        cut = "ftruncate" in seen and stop.name == "pwrite64"
        return testbed.return_at_once(0) if cut else testbed.GO_ON

    code = "path, seed, shape, engine = argv\nsave(path, seed, shape, one_by_one(engine))"
    ended = forks.run(code, path, NEW, shape, engine, at=write_nothing)
    assert ended.exception == "fastio.errors.WriteError"
    assert (ended.error["errno"], ended.error["offset"]) == (errno.EIO, 0)
    assert (held(path), strays(path)) == (NOTHING, [])


def _free_bytes(folder: Path) -> int:
    """Root may use space that is reserved from others."""
    status = os.statvfs(folder)
    return status.f_bfree * status.f_frsize


@pytest.fixture(params=["tmpfs", "ext4"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A filesystem with room for one checkpoint only."""
    folder = tmp_path / "small"
    folder.mkdir()
    if request.param == "tmpfs":
        with testbed.tmpfs_mount(folder, nbytes=600_000) as mount:
            yield mount.path
    else:
        with testbed.loop_mount(folder, "ext4", nbytes=4 << 20) as mount:
            filler = mount.path / "filler"
            with filler.open("wb") as file:
                while _free_bytes(mount.path) > 600_000:
                    file.write(bytes(1 << 16))
                    file.flush()
            yield mount.path


@pytest.mark.root
def test_a_full_disk_is_found_before_a_byte_is_written(
    forks: testbed.Forks, small_disk: Path, engine: Engine, shape: Shape
) -> None:
    path = place(small_disk, shape)
    save(path, OLD, shape, one_by_one(engine))
    files = bytes_below(small_disk)
    code = "path, seed, shape, engine = argv\nsave(path, seed, shape, one_by_one(engine))"
    ended = forks.run(code, path, NEW, shape, engine, at=lambda _: testbed.GO_ON)
    assert ended.exception == "fastio.errors.WriteError"
    assert (ended.error["errno"], ended.error["operation"]) == (errno.ENOSPC, "fallocate")
    assert ended.error["path"].startswith(str(path))
    assert "pwrite64" not in ended.names()
    assert bytes_below(small_disk) == files
