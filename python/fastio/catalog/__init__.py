"""The tensors of a source: for each name its dtype, shape, file and bytes.

A `Shard` holds columns, not objects: a file may have a hundred thousand tensors. Its `ShardFiles`
say where the bytes are.
"""

from __future__ import annotations

import bisect
import itertools
import math
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from fastio.catalog import encodings as encoded
from fastio.catalog.absent import NONE_ABSENT, AbsentTensors
from fastio.catalog.dtypes import DTYPES
from fastio.catalog.encodings import Encodings, StoredPart
from fastio.catalog.table import ChecksumTable
from fastio.catalog.unsound import UnsoundTable
from fastio.display.matches import close_matches
from fastio.display.values import cut, one_line, shown
from fastio.errors import FormatError, TensorNotFoundError


class TensorInfo(msgspec.Struct, frozen=True):
    """The place of one tensor in its file.

    Attributes
    ----------
    name, dtype, path : str
    shape : tuple of int
    offset : int
        Of the first byte, from the start of the file.
    nbytes : int
        In memory.

    Examples
    --------
    >>> info = fastio.open("model.safetensors").info("weight")
    >>> info.dtype, info.shape, info.nbytes
    ('F32', (2, 3), 24)
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: str
    offset: int
    nbytes: int

    @one_line
    def __repr__(self) -> str:
        what = f"{cut(repr(self.name), 40)} {self.dtype} {list(self.shape)}"
        return (
            f"<fastio.TensorInfo {what}, {self.nbytes} bytes at byte {self.offset} of {self.path}>"
        )


class Readable(Protocol):
    """Something with a header: an open file, or bytes in memory."""

    @property
    def path(self) -> str: ...
    @property
    def nbytes(self) -> int: ...
    def read(self, offset: int, nbytes: int) -> bytes: ...


class ShardFiles(Protocol):
    """The files with the bytes of one shard: one file, or several replicas.

    `replicas`, `lacking` and `table` may open them, and raise what that raises. The other
    properties are known before.
    """

    @property
    def path(self) -> str:
        """Of the preferred file."""

    @property
    def nbytes(self) -> int:
        """Of each file."""

    @property
    def is_sealed(self) -> bool:
        """Whether they carry checksums."""

    @property
    def on_roots(self) -> bool:
        """Whether they lie on roots of a store: one that hangs is not waited for."""

    @property
    def replicas(self) -> tuple[Readable, ...]:
        """The open files, the preferred one first."""

    @property
    def lacking(self) -> Mapping[str, str]:
        """The paths of replicas that cannot be read, and why."""

    @property
    def table(self) -> ChecksumTable | None:
        """The checksums that they carry."""


class OneFile(msgspec.Struct, frozen=True, eq=False):
    """One open file with the bytes of a shard.

    Attributes
    ----------
    file : Readable
    table : ChecksumTable or None
        None for a file that carries no checksums.
    """

    file: Readable
    table: ChecksumTable | None = None

    on_roots: ClassVar[bool] = False
    lacking: ClassVar[Mapping[str, str]] = MappingProxyType({})

    @property
    def path(self) -> str:
        """As it was opened."""
        return self.file.path

    @property
    def nbytes(self) -> int:
        """Its size."""
        return self.file.nbytes

    @property
    def is_sealed(self) -> bool:
        """Whether it carries checksums."""
        return self.table is not None

    @property
    def replicas(self) -> tuple[Readable, ...]:
        """This file."""
        return (self.file,)


class Shard(msgspec.Struct, frozen=True, eq=False):
    """One located file: its tensors as columns, in the order of their bytes.

    Attributes
    ----------
    files : ShardFiles
        Where the bytes are read.
    names, dtypes : list of str
    shapes : list of tuple of int
    begins, ends : (n,) int64
        Offsets from the start of the file, in bytes, ascending. Of an encoded tensor those of its
        first stored part and of its last one; `ends` need not ascend there.
    metadata : dict of str to str
        What the user stored with the tensors, without fastio's own keys.
    unsound : UnsoundTable or None
        What is wrong with the checksums of a file that carries some, and none of its own.
    content : bytes or None
        The whole file, where it is so small that it was read with its header.
    encodings : mapping of int to tuple of StoredPart, or None
        By row the parts of tensors that are encoded. None where all tensors are raw: their bytes in
        the file are those in memory.
    """

    files: ShardFiles
    names: list[str]
    dtypes: list[str]
    shapes: list[tuple[int, ...]]
    begins: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    metadata: dict[str, str]
    unsound: UnsoundTable | None = None
    content: bytes | None = None
    encodings: Encodings | None = None

    @property
    def path(self) -> str:
        """Of the preferred file."""
        return self.files.path

    @property
    def table(self) -> ChecksumTable | None:
        """The checksums of its files, which this opens."""
        return self.files.table

    def parts_of(self, row: int) -> tuple[StoredPart, ...] | None:
        """Return the stored parts of an encoded tensor; None for a raw one."""
        return None if self.encodings is None else self.encodings.get(row)

    def nbytes_of(self, row: int) -> int:
        """Return the bytes of a tensor in memory."""
        if self.parts_of(row) is None:
            return int(self.ends[row] - self.begins[row])
        return math.prod(self.shapes[row]) * DTYPES[self.dtypes[row]].bits // 8

    def nbytes(self) -> int:
        """Return the bytes of all tensors in memory."""
        sizes = self.ends - self.begins
        for row in self.encodings or ():
            sizes[row] = self.nbytes_of(row)
        return int(sizes.sum())

    def take(self, rows: Sequence[int]) -> Shard:
        """Return a shard with only these tensors, by position, ascending.

        Raises
        ------
        IndexError
            If a position is not there.
        """
        return msgspec.structs.replace(
            self,
            names=[self.names[row] for row in rows],
            dtypes=[self.dtypes[row] for row in rows],
            shapes=[self.shapes[row] for row in rows],
            begins=self.begins[list(rows)],
            ends=self.ends[list(rows)],
            encodings=encoded.taken(self.encodings, rows),
        )

    def names_within(self, offset: int, nbytes: int) -> tuple[str, ...]:
        """Return the tensors that have bytes in an extent of the file.

        Raises
        ------
        Nothing.
        """
        touched = (self.begins < offset + nbytes) & (self.ends > offset) & (self.begins < self.ends)
        return tuple(
            self.names[row]
            for row in np.flatnonzero(touched).tolist()
            if encoded.has_bytes_in(self.parts_of(row), offset, nbytes)
        )


class Catalog(Collection[str]):
    """The tensors of one source, file by file.

    Parameters
    ----------
    shards : iterable of Shard
    source : str
        What was asked for, as messages call it.
    absent : AbsentTensors
        Tensors that an index lists and its files do not have.

    Raises
    ------
    FormatError
        If two files hold a tensor of the same name.
    """

    def __init__(
        self, shards: Iterable[Shard], source: str, *, absent: AbsentTensors = NONE_ABSENT
    ) -> None:
        self.shards = tuple(shards)
        self.source = source
        self.absent = absent
        if len(self.shards) > 1 and len(self._ordinals) < len(self):
            self._refuse_duplicates()

    def __len__(self) -> int:
        return sum(len(shard.names) for shard in self.shards)

    def __contains__(self, name: object) -> bool:
        return name in self._ordinals

    def __iter__(self) -> Iterator[str]:
        return itertools.chain.from_iterable(shard.names for shard in self.shards)

    def __repr__(self) -> str:
        return f"<Catalog of {self.source}: {len(self)} tensors in {len(self.shards)} files>"

    @cached_property
    def _ordinals(self) -> dict[str, int]:
        """The position of each name among all names; made when the first one is looked up."""
        return {name: ordinal for ordinal, name in enumerate(self)}

    @cached_property
    def _first_ordinals(self) -> list[int]:
        counts = (len(shard.names) for shard in self.shards)
        return list(itertools.accumulate(counts, initial=0))

    def info(self, name: str) -> TensorInfo:
        """Say where a tensor lies.

        Raises
        ------
        TensorNotFoundError
            If there is none of this name.
        TypeError
            If the name is not a str.
        """
        index, row = self.position(name)
        shard = self.shards[index]
        dtype, shape, begin = shard.dtypes[row], shard.shapes[row], int(shard.begins[row])
        return TensorInfo(name, dtype, shape, shard.path, begin, shard.nbytes_of(row))

    def select(self, names: Collection[str]) -> Catalog:
        """Return a catalog with only these tensors, in file order.

        Parameters
        ----------
        names : collection of str
            May hold a name twice.

        Raises
        ------
        TensorNotFoundError
            If one of them is not there.
        TypeError
            If it is a single str, or holds something else than str.
        """
        if isinstance(names, (str, bytes)):
            raise TypeError(
                f"names must be a collection of str, not one {type(names).__name__}: {shown(names)}"
            )
        rows: dict[int, list[int]] = {}
        for index, row in sorted({self.position(name) for name in names}):
            rows.setdefault(index, []).append(row)
        return Catalog((self.shards[index].take(some) for index, some in rows.items()), self.source)

    def without_content(self) -> Catalog:
        """Return the same catalog, for whoever keeps it: nothing of small files stays in memory.

        Raises
        ------
        Nothing.
        """
        if all(shard.content is None for shard in self.shards):
            return self
        emptied = (msgspec.structs.replace(shard, content=None) for shard in self.shards)
        return Catalog(emptied, self.source, absent=self.absent)

    def position(self, name: Any) -> tuple[int, int]:
        """Return the shard of a tensor, and its place there.

        Raises
        ------
        TensorNotFoundError, TypeError
            As `info` does.
        """
        if not isinstance(name, str):
            raise TypeError(f"a tensor's name must be a str, not {type(name).__name__}")
        ordinal = self._ordinals.get(name)
        if ordinal is None:
            matches = close_matches(name, self._ordinals)
            raise TensorNotFoundError(name, self.source, matches, self.absent.why(name))
        if len(self.shards) == 1:  # as a loop over the slices of a file asks for
            return 0, ordinal
        index = bisect.bisect_right(self._first_ordinals, ordinal) - 1
        return index, ordinal - self._first_ordinals[index]

    def _refuse_duplicates(self) -> None:
        first: dict[str, Shard] = {}
        for shard in self.shards:
            for name in shard.names:
                other = first.setdefault(name, shard)
                if other is shard:
                    continue
                if _are_one_file(shard.path, other.path):
                    raise FormatError(shard.path, "is given twice", expected="each file once")
                problem = f"has a tensor {shown(name)}, and so has {other.path}"
                expected = "each name in one file; or the path of one file, or a list of some"
                raise FormatError(shard.path, problem, expected=expected)


def _are_one_file(path: str, other: str) -> bool:
    try:
        return path == other or os.path.samefile(path, other)
    except OSError:
        return False
