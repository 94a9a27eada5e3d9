"""The tensors of a source by name: the mapping part of a reader, which reads nothing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import ItemsView, Iterator, ValuesView
from itertools import islice
from types import MappingProxyType
from typing import TypeVar

from fastio.catalog import TensorInfo
from fastio.display import values
from fastio.reading.located import LocatedSource
from fastio.reading.view import TensorView

_ROWS_MAX = 20  # of the table in a notebook
_Default = TypeVar("_Default")


class TensorMapping(ABC):
    """Names, and for each a tensor that is not read yet."""

    _located: LocatedSource

    @property
    @abstractmethod
    def _open_source(self) -> LocatedSource:
        """Raises UsageError if it is closed."""

    @abstractmethod
    def __getitem__(self, name: str) -> TensorView:
        """Return a tensor that is not read yet."""

    def keys(self) -> list[str]:
        """Return the names, in file order.

        Examples
        --------
        >>> fastio.open("model.safetensors").keys()
        ['bias', 'weight']
        """
        return list(self._open_source)

    def values(self) -> ValuesView[TensorView]:
        """Return all tensors as views, in file order; none is read.

        Examples
        --------
        >>> reader = fastio.open("model.safetensors")
        >>> sum(view.nbytes for view in reader.values())
        36
        """
        _ = self._open_source
        return ValuesView(self)

    def items(self) -> ItemsView[str, TensorView]:
        """Return names and views of all tensors, in file order; none is read.

        `fastio.Reader.stream` reads them one after another.

        Examples
        --------
        >>> reader = fastio.open("model.safetensors")
        >>> [name for name, view in reader.items() if view.ndim == 2]
        ['weight']
        """
        _ = self._open_source
        return ItemsView(self)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self._open_source)

    def __contains__(self, name: object) -> bool:
        return name in self._open_source

    def get(self, name: str, default: _Default | None = None) -> TensorView | _Default | None:
        """Return a tensor that is not read yet, or `default` if no tensor has that name.

        Raises
        ------
        TypeError
            A dtype that the framework cannot hold.
        UsageError
            If the reader is closed.

        Examples
        --------
        >>> reader = fastio.open("model.safetensors")
        >>> print(reader.get("scale"))
        None
        """
        if name not in self:
            return default
        return self[name]

    @property
    def metadata(self) -> MappingProxyType[str, str]:
        """The metadata of the files, without fastio's own keys; the first file with a key wins."""
        merged: dict[str, str] = dict(self._open_source.metadata or {})
        for shard in reversed(self._open_source.catalog.shards):
            merged.update(shard.metadata)
        return MappingProxyType(merged)

    def info(self, name: str) -> TensorInfo:
        """Return dtype, logical shape, bytes, file and offset of a tensor.

        Raises
        ------
        TensorNotFoundError
            With close matches.
        UsageError
            If the reader is closed.

        Examples
        --------
        >>> info = fastio.open("model.safetensors").info("weight")
        >>> info.dtype, info.shape, info.nbytes
        ('F32', (2, 3), 24)
        """
        return self._open_source.info(name)

    # ---- in a notebook

    def _ipython_key_completions_(self) -> list[str]:
        return list(self._located)

    def _repr_html_(self) -> str:
        from fastio.display import html  # for notebooks alone

        rows = []
        for name in islice(self._located, _ROWS_MAX):
            info = self._located.info(name)
            rows.append((name, info.dtype, list(info.shape), values.size(info.nbytes)))
        head = "name", "dtype", "shape", "bytes"
        return html.table(repr(self), head, rows, len(self._located) - len(rows))
