"""The tools that cut off a process and the power work as documented."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

import testbed

_WRITE_TWICE = """
fd = os.open(argv[0], os.O_CREAT | os.O_WRONLY)
os.pwrite(fd, b"one", 0)
os.pwrite(fd, b"two", 3)
os.fsync(fd)
os.rename(argv[0], argv[1])
say("renamed")
"""


@pytest.mark.parametrize("kill_at", range(5))
def test_a_process_is_killed_before_the_call_that_it_is_stopped_at(
    tmp_path: Path, kill_at: int
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    with testbed.forks("import os") as forks:
        ended = forks.run(
            _WRITE_TWICE,
            old,
            new,
            at=lambda stop: testbed.KILL if stop.at == kill_at else testbed.GO_ON,
        )
    names = ["pwrite64", "pwrite64", "fsync", "rename"]
    assert ended.names() == names[: kill_at + 1]
    assert [stop.path for stop in ended.stops] == [*[str(old)] * 3, str(new)][: kill_at + 1]
    assert ended.killed == (kill_at < 4)
    assert ended.said == ([] if ended.killed else ["renamed"])
    there = new if kill_at == 4 else old
    assert there.read_bytes() == b"onetwo"[: 3 * kill_at]


def test_a_call_fails_or_returns_on_request(tmp_path: Path) -> None:
    def at(stop: testbed.Stop) -> testbed.Answer:
        if stop.name == "fsync":
            return testbed.fail_with(errno.EIO)
        return testbed.return_at_once(0) if stop.at == 1 else testbed.GO_ON

    with testbed.forks("import os") as forks:
        ended = forks.run(_WRITE_TWICE, tmp_path / "old", tmp_path / "new", at=at)
        again = forks.run("say(argv)", 1, "a")
    assert (ended.exception, ended.error["errno"]) == ("builtins.OSError", errno.EIO)
    assert (tmp_path / "old").read_bytes() == b"one"
    assert again.check().said == [[1, "a"]]


def test_a_process_that_takes_too_long_is_killed() -> None:
    with testbed.forks("import time") as forks:
        assert forks.run("time.sleep(60)", kill_after_s=0.1).killed
        with pytest.raises(TimeoutError):
            forks.run("time.sleep(60)", timeout_s=0.1)


@pytest.mark.root
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_power_cut_loses_unsynced_bytes(tmp_path: Path, kind: Any) -> None:
    with testbed.power_mount(tmp_path, kind) as disk:
        for name in ("synced", "not"):
            with (disk.path / name).open("wb") as file:
                file.write(b"bytes")
                file.flush()
                if name == "synced":
                    os.fsync(file.fileno())
        disk.cut()
        with pytest.raises(OSError, match="Input/output error"):
            (disk.path / "more").write_bytes(b"")
        disk.restart()
        assert (disk.path / "synced").read_bytes() == b"bytes"
        assert not (disk.path / "not").exists()
    assert list(tmp_path.iterdir()) == []
