"""seal: a safetensors file, rewritten with checksums of its own bytes.

Plain Python over the native XXH3-64: it is the reference for the format.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from fastio.arguments.anchored import anchored
from fastio.arguments.paths import AnyPath, path_of
from fastio.catalog import Shard
from fastio.errors import WriteError
from fastio.formats import checksums, headers, known, safetensors
from fastio.formats.opening import open_file
from fastio.host.leftovers import remove_leftovers
from fastio.host.replacement import Replacement, replacing, status_of_file
from fastio.host.shortage import memory_named
from fastio.saving.target import file_target

_STEP_BYTES = 2**24  # the largest chunk, and so whole chunks of any size


def seal(
    src: AnyPath,
    dst: AnyPath | None = None,
    *,
    force: bool = False,
) -> Path:
    """Rewrite a safetensors file with checksums of its header and its data.

    The result is a plain safetensors file that every other tool reads; `fastio.load` verifies it
    from then on. It is written beside its place and replaces the old file in one durable step: at
    any moment, also after a power cut, the path holds the old file or the new one. Owner, group,
    mode and POSIX access list are kept, as by `fastio.save`; other extended attributes are dropped.
    A file without metadata gets ``format: pt``, which loaders of models treat like none.

    Parameters
    ----------
    src : path
        The file to read. A sealed one is verified while it is read. Checksums of another file, if
        a tool copied its metadata, are left out. Both paths are as `fastio.load` takes them.
    dst : path, optional
        The file to write; default: `src`. A symlink there is replaced and not followed; a folder or
        a device is refused. A sealed file that is sealed onto itself is verified and left as it is.
    force : bool
        Compute new checksums and ignore those of `src`. This makes damage look right: use it only
        if the bytes are known to be good.

    Returns
    -------
    pathlib.Path
        `dst`.

    Raises
    ------
    FileNotFoundError
        `src` is missing.
    FormatError
        `src` is not a valid safetensors file, has an unsound checksum table, or would get a header
        beyond the format's limit.
    ChecksumError
        `src` is sealed, and its bytes differ from the sealed ones.
    MemoryError
        There is no memory for a header, or for 16 MiB of the file.
    ReadError, WriteError
        A system call failed; `dst` is a folder, a device, a pipe or a socket; or it exists and the
        filesystem cannot rename. The old file stays, and no temporary file is left. Only if
        `WriteError` names the fsync of the folder, the new file is in place.

    Examples
    --------
    >>> plain = fastio.save({"weight": np.ones(3)}, "plain.safetensors", checksums=False)
    >>> fastio.seal(plain)
    PosixPath('plain.safetensors')
    >>> fastio.verify("plain.safetensors").unverified
    ()
    """
    typed = path_of(src, "src")
    source = Path(anchored(typed))
    given, target = file_target(dst) if dst is not None else (Path(typed), source)
    with memory_named(typed, lambda: f"its header, and {_STEP_BYTES} bytes of it at a time"):
        file = open_file(anchored(typed), typed=typed)
        known.require_safetensors(file)
        shard = safetensors.locate(file, ignore_table=force)
        if dst is None:
            file_target(target)  # refuses what is no place for a file
        if shard.table is not None and target.exists() and target.samefile(source):
            for _ in _verified_data(shard):
                pass
        else:
            _rewrite(shard, target)
    return given


def _rewrite(shard: Shard, target: Path) -> None:
    data_bytes = _data_bytes(shard)
    # The file that goes is the one to imitate, or the one that is copied.
    status, like = status_of_file(target), target
    if status is None:
        status, like = os.stat(shard.path), Path(shard.path)
    plan = checksums.plan_header(shard.metadata, _tensor_entries(shard), data_bytes, shard.path)
    remove_leftovers(target)
    with replacing(target) as replacement:
        replacement.reserve(plan.start + data_bytes)
        replacement.begin()
        if replacement.abilities.in_order:
            _write_in_order(shard, plan, replacement)
        else:
            digests = _write_data(shard, plan, replacement)
            replacement.file.write(0, plan.encode(digests))
        replacement.imitate(status, like)
        replacement.commit()


def _write_in_order(shard: Shard, plan: checksums.HeaderPlan, replacement: Replacement) -> None:
    """The header comes first, and so the source is read twice."""
    digests = b"".join(
        plan.algorithm.digests(data, plan.chunk_bytes) for data in _verified_data(shard)
    )
    replacement.file.write(0, plan.encode(digests))
    if _write_data(shard, plan, replacement) != digests:
        detail = f"{shard.path} changed while it was read"
        raise WriteError(errno.ESTALE, "write", replacement.path, detail=detail)


def _write_data(shard: Shard, plan: checksums.HeaderPlan, replacement: Replacement) -> bytes:
    """Copy the data, and return its digests."""
    digests = []
    offset = plan.start
    for data in _verified_data(shard):
        digests.append(plan.algorithm.digests(data, plan.chunk_bytes))
        replacement.file.write(offset, data)
        offset += len(data)
    return b"".join(digests)


def _tensor_entries(shard: Shard) -> bytes:
    start = _data_start(shard)
    return headers.tensor_entries(
        shard.names, shard.dtypes, shard.shapes, shard.begins - start, shard.ends - start
    )


def _data_start(shard: Shard) -> int:
    return int(shard.begins[0]) if shard.names else shard.files.nbytes


def _data_bytes(shard: Shard) -> int:
    return shard.files.nbytes - _data_start(shard)


def _verified_data(shard: Shard) -> Iterator[bytes]:
    """The data of a file in steps, each compared with the table that the file carries, if it
    does.
    """
    (file,) = shard.files.replicas
    table = shard.table
    for offset in range(_data_start(shard), file.nbytes, _STEP_BYTES):
        data = file.read(offset, min(_STEP_BYTES, file.nbytes - offset))
        damage = None if table is None else table.first_damage(data, offset)
        if damage is not None:
            raise damage.error(shard.path, shard.names_within(damage.offset, damage.nbytes))
        yield data
