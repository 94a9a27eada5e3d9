"""Owner, group, mode and access list of a replaced file, given to the new one.

Each loss is told. The new file is never open to anybody whom the old one kept out.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path

from fastio.errors import WriteError
from fastio.host.refusals import is_refusal, named

_ACL = "system.posix_acl_access"
# linux/posix_acl_xattr.h: a version, then entries of (tag, rights, id), little-endian.
_ACL_VERSION = 2
_ACL_HEADER, _ACL_ENTRY = struct.Struct("<I"), struct.Struct("<HHI")
_GROUP_OF_FILE, _MASK, _OTHERS = 0x04, 0x10, 0x20
# An id that a user namespace does not know reads so, proc(5): overflowuid, overflowgid.
_OVERFLOW_ID = 65534

Note = Callable[[str, str], object]
"""Takes what was refused, and what was done instead."""


def access_list(file: int | Path) -> bytes | None:
    """Return the POSIX access control list of a file; None where it has none beyond its mode."""
    try:
        return os.getxattr(file, _ACL)
    except OSError:
        return None


def inherit(fd: int, path: Path, status: os.stat_result, acl: bytes | None, note: Note) -> None:
    """Give a new file the owner, group, mode and access control list of another one.

    Parameters
    ----------
    fd : int
        The new file, as yet open to its owner only.
    path : pathlib.Path
        For messages.
    status : os.stat_result
    acl : bytes or None
        What is to be taken over.
    note : callable
        Told what cannot be kept.

    Raises
    ------
    WriteError
        If a call fails; or if the file would be more open than the other one.
    """
    own = os.fstat(fd)
    owner_kept, group_kept = _give_owner(fd, path, own, status, note)
    mode = stat.S_IMODE(status.st_mode)
    if not owner_kept:
        mode &= ~stat.S_ISUID
    if not group_kept:
        mode &= ~stat.S_ISGID
        # Members of the new group were among all others before, and those of the old one are now.
        rights = mode & (mode >> 3 if acl is None else _group_rights(acl)) & 0o7
        mode = mode & ~0o7 | rights
        if acl is None:
            mode = _with_group(mode, rights)
        else:
            acl = _with_rights(acl, rights)
    # A new file can have a list that it got from its folder, and the mode alone would open it.
    inherited = access_list(fd)
    if inherited != acl:
        mode = _give_access_list(fd, path, acl, mode, note, inherited=inherited)
    if inherited != acl or (own.st_uid, own.st_gid) != (status.st_uid, status.st_gid):
        own = os.fstat(fd)  # each changes the mode, too
    _give_mode(fd, path, own, mode, note, may_widen=False)


def allow(fd: int, path: Path, mode: int, note: Note) -> None:
    """Set the mode of a file, whatever the umask is; what cannot be set is told.

    Raises
    ------
    WriteError
        If the call fails for another reason than that it cannot be had.
    """
    _give_mode(fd, path, os.fstat(fd), mode, note, may_widen=True)


def _give_owner(
    fd: int, path: Path, own: os.stat_result, status: os.stat_result, note: Note
) -> tuple[bool, bool]:
    """Whether the file has the other one's owner, and its group."""
    # In one call, or each by itself: a user may give a file to one of his groups, and a namespace
    # may know one of both ids.
    kept_owner = own.st_uid == status.st_uid and _is_known(own.st_uid, "uid")
    kept_group = own.st_gid == status.st_gid and _is_known(own.st_gid, "gid")
    if kept_owner and kept_group:
        return True, True
    refusal: OSError | None = None
    for uid, gid in ((status.st_uid, status.st_gid), (-1, status.st_gid), (status.st_uid, -1)):
        if (uid < 0 or kept_owner) and (gid < 0 or kept_group):
            continue
        try:
            os.fchown(fd, uid, gid)
        except OSError as error:
            if not is_refusal(error):
                raise WriteError(error.errno or errno.EIO, "fchown", path) from error
            refusal = refusal or error
        else:
            kept_owner, kept_group = kept_owner or uid >= 0, kept_group or gid >= 0
    if refusal is not None and not (kept_owner and kept_group):
        lost = "owner and group" if not (kept_owner or kept_group) else "owner"
        lost = "group" if kept_owner else lost
        note(
            f"the {lost} of the replaced file ({status.st_uid}:{status.st_gid}) cannot be kept "
            f"({named(refusal)})",
            "the new one belongs to whoever writes it"
            + ("" if kept_group else ", and gives its group no more rights than all others had"),
        )
    return kept_owner, kept_group


def _is_known(number: int, kind: str) -> bool:
    """Whether a number stands for one user or group, and not for all whom the namespace lacks."""
    if number != _OVERFLOW_ID:
        return True
    try:
        with open(f"/proc/self/{kind}_map", encoding="utf-8") as ranges:
            mapped = [list(map(int, line.split())) for line in ranges]
    except OSError:
        return True
    return any(first <= number < first + count for first, _, count in mapped)


def _give_access_list(
    fd: int, path: Path, acl: bytes | None, mode: int, note: Note, *, inherited: bytes | None
) -> int:
    """Return the mode that goes with the list which the file has then."""
    try:
        if acl is not None:
            os.setxattr(fd, _ACL, acl)
        else:
            os.removexattr(fd, _ACL)
    except OSError as error:
        if not is_refusal(error):
            raise WriteError(error.errno or errno.EIO, "setxattr", path) from error
        note(
            f"the access control list of the replaced file cannot be kept ({named(error)})",
            "users and groups that it names have no rights of their own",
        )
        # With a list the mode's group bits are its mask. Without it they are the group's own.
        rights = 0 if acl is None or inherited is not None else _group_rights(acl)
        return _with_group(mode, rights)
    return mode


def _give_mode(
    fd: int, path: Path, own: os.stat_result, mode: int, note: Note, *, may_widen: bool
) -> None:
    has = stat.S_IMODE(own.st_mode)
    if has == mode:
        return
    try:
        os.fchmod(fd, mode)
    except OSError as error:
        if not is_refusal(error):
            raise WriteError(error.errno or errno.EIO, "fchmod", path) from error
        if has & ~mode & 0o077 and not may_widen:
            detail = f"it would have the mode {has:03o}, and be open to more than {mode:03o} allows"
            raise WriteError(error.errno or errno.EPERM, "fchmod", path, detail=detail) from error
        note(f"the mode {mode:03o} cannot be set here ({named(error)})", f"the file has {has:03o}")


def _with_group(mode: int, rights: int) -> int:
    return mode & ~0o070 | rights << 3


def _entries(acl: bytes) -> list[tuple[int, int, int]]:
    """The entries of a list; none of a list of an unknown version."""
    if len(acl) < _ACL_HEADER.size or _ACL_HEADER.unpack_from(acl)[0] != _ACL_VERSION:
        return []
    body = acl[_ACL_HEADER.size :]
    return list(_ACL_ENTRY.iter_unpack(body[: len(body) // _ACL_ENTRY.size * _ACL_ENTRY.size]))


def _group_rights(acl: bytes) -> int:
    """The rights of the file's own group, by its entry and the mask."""
    rights = {tag: allowed for tag, allowed, _ in _entries(acl)}
    return rights.get(_GROUP_OF_FILE, 0) & rights.get(_MASK, 0o7)


def _with_rights(acl: bytes, rights: int) -> bytes:
    """The list with other rights of the file's own group, and of all others."""
    entries = (
        (tag, rights if tag in (_GROUP_OF_FILE, _OTHERS) else allowed, who)
        for tag, allowed, who in _entries(acl)
    )
    return _ACL_HEADER.pack(_ACL_VERSION) + b"".join(_ACL_ENTRY.pack(*each) for each in entries)
