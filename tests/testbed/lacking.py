"""Filesystems that lack calls: a FUSE filesystem over a folder that refuses the given calls."""

import contextlib
import errno
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from testbed.fuse import build_filesystem, fuse_mount

_NO_CALL = errno.ENOSYS
# Two real ones: https://github.com/awslabs/mountpoint-s3/blob/main/doc/SEMANTICS.md and
# TROUBLESHOOTING.md beside it; fuse-dfs of Apache Hadoop, fuse_impls_write.c.
LIKE_S3: Mapping[str, int] = {
    "order": errno.EINVAL,
    "overwrite": errno.EPERM,
    "rename": _NO_CALL,
    "link": _NO_CALL,
    "truncate": errno.EPERM,
    "chmod": errno.EPERM,
    "chown": errno.EPERM,
    "fallocate": _NO_CALL,
}
LIKE_HDFS: Mapping[str, int] = {
    "order": errno.EOPNOTSUPP,
    "truncate": errno.EOPNOTSUPP,
    "fallocate": _NO_CALL,
    "link": _NO_CALL,
    "fsyncdir": errno.EINVAL,
}


@dataclass(frozen=True)
class LackingMount:
    """`path` shows the files of `source`, which lacks no calls."""

    path: Path
    source: Path


def build_lacking_filesystem(folder: Path) -> Path:
    """Compile tests/native/fuse_lacking.c into `folder`, as `build_filesystem` does."""
    return build_filesystem("fuse_lacking", folder)


@contextlib.contextmanager
def lacking_mount(
    program: Path, folder: Path, refused: Mapping[str, int]
) -> Iterator[LackingMount]:
    """Mount `folder`/source at `folder`/mnt.

    Parameters
    ----------
    program
        The result of `build_lacking_filesystem`.
    folder
        An empty folder; its source/ stays.
    refused
        By the name of a call, as tests/native/fuse_lacking.c has them: its errno.

    Raises
    ------
    pytest.skip.Exception
        If there is no FUSE on this machine or it is not allowed here.
    """
    mount = LackingMount(folder / "mnt", folder / "source")
    mount.path.mkdir()
    mount.source.mkdir()
    told = [f"{call}={code}" for call, code in refused.items()]
    with fuse_mount(program, mount.source, mount.path, *told):
        yield mount
