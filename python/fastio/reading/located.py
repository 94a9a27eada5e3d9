"""The tensors of one source: those in one piece, and those whose rows are in several shards."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import msgspec

from fastio.catalog import Catalog, Shard, TensorInfo
from fastio.host.memory import available_bytes
from fastio.options import Options
from fastio.reading.watch import Watch, is_persistent


class Cut(msgspec.Struct, frozen=True, eq=False):
    """A tensor whose rows lie in several shards.

    Attributes
    ----------
    name, dtype : str
    shape : tuple of int
        Of the whole tensor.
    pieces : tuple of Shard
        Each with one tensor: some rows of this one, in order.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    pieces: tuple[Shard, ...]

    @property
    def nbytes(self) -> int:
        """Of the whole tensor."""
        return sum(int(piece.ends[0] - piece.begins[0]) for piece in self.pieces)

    @property
    def info(self) -> TensorInfo:
        """The path of its first piece."""
        first = self.pieces[0]
        return TensorInfo(
            self.name, self.dtype, self.shape, first.path, int(first.begins[0]), self.nbytes
        )

    def extents(self, begin: int, end: int) -> Iterator[tuple[Shard, int, int]]:
        """Yield which bytes of which shards are the bytes [begin, end) of the tensor."""
        reached = 0
        for piece in self.pieces:
            at, nbytes = int(piece.begins[0]), int(piece.ends[0] - piece.begins[0])
            first, last = max(begin - reached, 0), min(end - reached, nbytes)
            if first < last:
                yield piece, at + first, at + last
            reached += nbytes


class LocatedSource(msgspec.Struct, frozen=True, eq=False, dict=True):
    """All tensors of a source, those that lie in one piece and those that do not.

    It also says how all of them are read, whichever way they are read.

    Attributes
    ----------
    catalog : Catalog
    cuts : dict of str to Cut
    metadata : dict of str to str or None
        Of the source as a whole; None where its files have it.
    watch : Watch or None
        Who watches over its replicas; None for a source without replicas.
    keeps : object
        What must live while it is read.
    again : callable or None
        Finds the same in another process, and can be pickled; None where its path is all there is.
    """

    catalog: Catalog
    cuts: Mapping[str, Cut]
    metadata: Mapping[str, str] | None = None
    watch: Watch | None = None
    keeps: object = None
    again: Callable[[Options], LocatedSource] | None = None

    def __len__(self) -> int:
        return len(self.catalog) + len(self.cuts)

    def __iter__(self) -> Iterator[str]:
        return itertools.chain(self.catalog, self.cuts)

    def __contains__(self, name: object) -> bool:
        return self._is_cut(name) or name in self.catalog

    def _is_cut(self, name: Any) -> bool:
        return isinstance(name, str) and name in self.cuts

    @property
    def source(self) -> str:
        """The source, as messages call it."""
        return self.catalog.source

    @property
    def shards(self) -> tuple[Shard, ...]:
        """Everything that is read, shard by shard; the pieces of cut tensors last."""
        pieces = (piece for cut in self.cuts.values() for piece in cut.pieces)
        return (*self.catalog.shards, *pieces)

    @property
    def is_persistent(self) -> bool:
        """Whether a failure is followed by another try, of the same replica or another one."""
        return is_persistent(self.watch)

    @cached_property
    def keep_cold(self) -> bool:
        """Whether other ranks of this host are about to read the same files, and memory can keep
        them; found out once.
        """
        ranks = os.environ.get("LOCAL_WORLD_SIZE", "1")
        if not ranks.isdecimal() or int(ranks) <= 1:
            return False
        nbytes = sum({shard.path: shard.files.nbytes for shard in self.shards}.values())
        # The cache keeps one copy, each rank has one of its own.
        return nbytes * (1 + int(ranks)) < (available_bytes() or 0)

    def mapping_room_bytes(self, options: Options) -> int | None:
        """Return how much of cold files may be mapped; None where they are not to be mapped.

        A copy takes as much memory as its pages in the cache. If memory has room for both, the
        cache keeps the pages of a mapping.
        """
        if options.mapping == "always":
            return sys.maxsize
        keeps = options.cache == "keep" or (options.cache == "auto" and self.keep_cold)
        if options.mapping == "never" or not keeps:
            return None
        return (available_bytes() or 0) // 2

    def narrowed(self, options: Options) -> Options:
        """Return the options with what this source does not allow left out.

        Replicas are never mapped: pages that are read again are not verified again.
        """
        if self.watch is None or options.mapping == "never":
            return options
        return replace(options, mapping="never")

    def closed(self) -> LocatedSource:
        """Return the same without its tensors, and without what keeps their files open."""
        return LocatedSource(Catalog((), self.source), {}, watch=self.watch)

    def to_keep(self) -> LocatedSource:
        """Return the same, for whoever keeps it: nothing of small files stays in memory.

        Raises
        ------
        Nothing.
        """
        catalog = self.catalog.without_content()
        return self if catalog is self.catalog else msgspec.structs.replace(self, catalog=catalog)

    def position(self, name: Any) -> tuple[int, int] | Cut:
        """Return where a tensor is.

        Raises
        ------
        TensorNotFoundError, TypeError
            As `Catalog.info` does.
        """
        if self.cuts and self._is_cut(name):
            return self.cuts[name]
        return self.catalog.position(name)

    def info(self, name: str) -> TensorInfo:
        """Say where a tensor lies.

        Raises
        ------
        TensorNotFoundError, TypeError
            As `Catalog.info` does.
        """
        return self.cuts[name].info if self._is_cut(name) else self.catalog.info(name)

    def select(self, names: Collection[str]) -> LocatedSource:
        """Return only these tensors.

        Raises
        ------
        TensorNotFoundError, TypeError
            As `Catalog.select` does.
        """
        if not self.cuts or isinstance(names, (str, bytes)):
            return msgspec.structs.replace(self, catalog=self.catalog.select(names))
        whole = [name for name in names if not self._is_cut(name)]
        cuts = {name: self.cuts[name] for name in names if self._is_cut(name)}
        return msgspec.structs.replace(self, catalog=self.catalog.select(whole), cuts=cuts)
