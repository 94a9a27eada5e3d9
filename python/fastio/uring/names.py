"""What io_uring calls its features, operations and set-up flags: include/uapi/linux/io_uring.h of
Linux 6.19. The numbers never change, so a kernel that is newer than liburing is named, too.
"""

from __future__ import annotations

from collections.abc import Sequence

FEATURES = (
    "single_mmap", "nodrop", "submit_stable", "rw_cur_pos", "cur_personality", "fast_poll",
    "poll_32bits", "sqpoll_nonfixed", "ext_arg", "native_workers", "rsrc_tags", "cqe_skip",
    "linked_file", "reg_reg_ring", "recvsend_bundle", "min_timeout", "rw_attr", "no_iowait",
)  # fmt: skip
"""IORING_FEAT_*, by bit."""

OPERATIONS = (
    "nop", "readv", "writev", "fsync", "read_fixed", "write_fixed", "poll_add", "poll_remove",
    "sync_file_range", "sendmsg", "recvmsg", "timeout", "timeout_remove", "accept", "async_cancel",
    "link_timeout", "connect", "fallocate", "openat", "close", "files_update", "statx", "read",
    "write", "fadvise", "madvise", "send", "recv", "openat2", "epoll_ctl", "splice",
    "provide_buffers", "remove_buffers", "tee", "shutdown", "renameat", "unlinkat", "mkdirat",
    "symlinkat", "linkat", "msg_ring", "fsetxattr", "setxattr", "fgetxattr", "getxattr", "socket",
    "uring_cmd", "send_zc", "sendmsg_zc", "read_multishot", "waitid", "futex_wait", "futex_wake",
    "futex_waitv", "fixed_fd_install", "ftruncate", "bind", "listen", "recv_zc", "epoll_wait",
    "readv_fixed", "writev_fixed", "pipe", "nop128", "uring_cmd128",
)  # fmt: skip
"""IORING_OP_*, by number."""

FLAGS = {
    "iopoll": 1 << 0,
    "sqpoll": 1 << 1,
    "clamp": 1 << 4,
    "submit_all": 1 << 7,
    "coop_taskrun": 1 << 8,
    "taskrun_flag": 1 << 9,
    "single_issuer": 1 << 12,
    "defer_taskrun": 1 << 13,
}
"""IORING_SETUP_*: those that need no parameter and leave the queues' entries as they are."""


def name_of(names: Sequence[str], number: int) -> str:
    """The name of a number, or itself as text where the kernel knows more than this table.

    Raises
    ------
    Nothing.
    """
    return names[number] if number < len(names) else str(number)
