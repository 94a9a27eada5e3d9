"""Bad machines made out of one good one: failing, slow and hung disks, refused system calls.

Each tool is a context manager or a function that cleans up after itself, and skips the test
with a reason where this machine cannot do it. `tests/test_testbed.py` shows that each does what
it claims.
"""

from testbed.children import ChildResult, run_python
from testbed.disks import FailingMount, failing_mount, throttled
from testbed.mounts import Mount, enter_private_mounts, loop_mount, tmpfs_mount
from testbed.requirements import require_root, require_tools
from testbed.residency import drop_caches, evict, kept_warm, resident_bytes
from testbed.slow import SlowMount, build_slow_filesystem, slow_mount

__all__ = [
    "ChildResult",
    "FailingMount",
    "Mount",
    "SlowMount",
    "build_slow_filesystem",
    "drop_caches",
    "enter_private_mounts",
    "evict",
    "failing_mount",
    "kept_warm",
    "loop_mount",
    "require_root",
    "require_tools",
    "resident_bytes",
    "run_python",
    "slow_mount",
    "throttled",
    "tmpfs_mount",
]
