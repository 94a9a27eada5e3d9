"""Bad machines made out of one good one: failing, slow and hung disks, refused system calls.

Each tool is a context manager or a function that cleans up after itself. It skips the test, with a
reason, if this machine lacks a requirement. `tests/test_testbed.py` tests each of them.
"""

from testbed.children import ChildResult, run_python
from testbed.disks import FailingMount, failing_mount, throttled
from testbed.lacking import (
    LIKE_HDFS,
    LIKE_S3,
    LackingMount,
    build_lacking_filesystem,
    lacking_mount,
)
from testbed.mounts import Mount, enter_private_mounts, frozen, loop_mount, tmpfs_mount
from testbed.power import PowerMount, power_mount
from testbed.requirements import require_gpu, require_root, require_tools
from testbed.residency import drop_caches, evict, kept_warm, resident_bytes
from testbed.slow import SlowMount, build_slow_filesystem, slow_mount
from testbed.stops import GO_ON, KILL, Answer, Ended, Forks, Stop, fail_with, forks, return_at_once

__all__ = [
    "GO_ON",
    "KILL",
    "LIKE_HDFS",
    "LIKE_S3",
    "Answer",
    "ChildResult",
    "Ended",
    "FailingMount",
    "Forks",
    "LackingMount",
    "Mount",
    "PowerMount",
    "SlowMount",
    "Stop",
    "build_lacking_filesystem",
    "build_slow_filesystem",
    "drop_caches",
    "enter_private_mounts",
    "evict",
    "fail_with",
    "failing_mount",
    "forks",
    "frozen",
    "kept_warm",
    "lacking_mount",
    "loop_mount",
    "power_mount",
    "require_gpu",
    "require_root",
    "require_tools",
    "resident_bytes",
    "return_at_once",
    "run_python",
    "slow_mount",
    "throttled",
    "tmpfs_mount",
]
