"""open: a source whose tensors are read when they are asked for, whole or in part."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from types import MappingProxyType, TracebackType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fastio import fetch
from fastio.access import Access
from fastio.ahead import in_file_order
from fastio.catalog import Catalog, TensorInfo, shape_in_memory
from fastio.errors import MemoryLimitError, UsageError
from fastio.formats import huggingface
from fastio.frameworks import Framework, check_dtype, check_dtypes, framework
from fastio.loading import Verify, check_kind, check_verify, wrapped
from fastio.options import Options
from fastio.report import Report

_STREAM_BYTES = 2**28

Source = str | os.PathLike[str] | list[Any] | tuple[Any, ...]


class Reader:
    """Tensors of a source, read when they are asked for.

    Any number of threads may use one at once. It can be pickled: its path and options travel, and
    the source is opened again where it arrives. A forked child may use it as well. A file that is
    replaced meanwhile stays the one that was opened.

    Parameters
    ----------
    source, framework, verify, options
        See `fastio.open`.
    """

    def __init__(
        self,
        source: Source,
        *,
        framework: str = "numpy",
        verify: Verify = True,
        options: Options | None = None,
    ) -> None:
        self._closed = True
        check_verify(verify)
        check_kind("options", options, Options)
        self._held_by: Framework = _framework(framework)
        self._verify = bool(verify)
        self._options = options or Options()
        self._catalog = huggingface.locate(source)
        self._arguments = (_absolute(source), framework, verify, self._options)
        if verify == "require":
            fetch.require_tables(self._catalog)
        unverified = (
            shard.path for shard in self._catalog.shards if shard.table is None or not self._verify
        )
        self._described = len(self._catalog.shards), len(self._catalog), tuple(unverified)
        self._access = Access(
            self._catalog, self._held_by, verify=self._verify, options=self._options
        )
        self._closed = False

    # ---- what there is

    def keys(self) -> list[str]:
        """Return the names, in file order."""
        return list(self._open_catalog)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self._open_catalog)

    def __contains__(self, name: object) -> bool:
        return name in self._open_catalog

    @property
    def metadata(self) -> MappingProxyType[str, str]:
        """What was stored with the tensors, without fastio's own keys; of several files that have
        a key, the first one's.
        """
        merged: dict[str, str] = {}
        for shard in reversed(self._open_catalog.shards):
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
        """
        return self._open_catalog.info(name)

    # ---- what it holds

    def __getitem__(self, name: str) -> TensorView:
        """Return a tensor that is not read yet.

        Raises
        ------
        TensorNotFoundError
            With close matches.
        TypeError
            A name that is no str; a dtype that the framework cannot hold.
        UsageError
            If the reader is closed.
        """
        return TensorView(self, name)

    def tensor(self, name: str) -> Any:
        """Return a whole tensor of its own memory. A loop over the names is recognised, and read
        ahead.

        Raises
        ------
        ChecksumError, MemoryError, MemoryLimitError, ReadError, TypeError
            As `fastio.load` does.
        TensorNotFoundError
            With close matches.
        UsageError
            If the reader is closed.
        """
        return self._access.tensor(self._open_catalog.position(name))

    def read(self, names: Collection[str]) -> dict[str, Any]:
        """Return some tensors, read at once; in this order.

        Raises
        ------
        ChecksumError, MemoryError, MemoryLimitError, ReadError, TypeError
            As `fastio.load` does.
        TensorNotFoundError
            With close matches.
        UsageError
            If the reader is closed.
        """
        if not isinstance(names, (str, bytes)):
            names = tuple(names)
        tensors = self._load(self._open_catalog.select(names))
        return {name: tensors[name] for name in names}

    def load(self) -> dict[str, Any]:
        """Return all tensors, in file order.

        Raises
        ------
        ChecksumError, MemoryError, MemoryLimitError, ReadError, TypeError
            As `fastio.load` does.
        UsageError
            If the reader is closed.
        """
        return self._load(self._open_catalog)

    def _load(self, catalog: Catalog) -> dict[str, Any]:
        check_dtypes(catalog, self._held_by)
        loaded = fetch.read(catalog, verify=self._verify, options=self._options)
        self._access.count(loaded.statistics)
        return wrapped(catalog, loaded, self._held_by)

    def stream(
        self, names: Collection[str] | None = None, *, memory_limit_bytes: int | None = None
    ) -> Iterator[tuple[str, Any]]:
        """Yield name and tensor in file order, read ahead in bounded memory.

        Parameters
        ----------
        names : collection of str, optional
            Only these; default: all.
        memory_limit_bytes : int, optional
            Bound on what was read and not yet yielded. A tensor above it is read on its own.
            Default: that of the options, or else 256 MiB.

        Returns
        -------
        iterator of (str, array)
            A tensor that was yielded is the caller's. Dropped half-way, it frees what was read.

        Raises
        ------
        ChecksumError, MemoryError, ReadError
            As `fastio.load` does, when it comes to what is damaged.
        MemoryLimitError
            A limit smaller than a chunk.
        TensorNotFoundError
            With close matches.
        TypeError, ValueError
            A dtype that the framework cannot hold; a limit that is none.
        UsageError
            If the reader is closed.
        """
        if names is not None and not isinstance(names, (str, bytes)):
            names = tuple(names)
        catalog = self._open_catalog if names is None else self._open_catalog.select(names)
        check_dtypes(catalog, self._held_by)
        limit = self._stream_limit(memory_limit_bytes)
        for shard in catalog.shards:
            if self._verify and shard.table is not None and shard.table.chunk_bytes > limit:
                raise MemoryLimitError(shard.table.chunk_bytes, limit)
        return in_file_order(
            catalog,
            self._held_by,
            verify=self._verify,
            options=self._options,
            window_bytes=limit,
            count=self._access.count,
        )

    def _stream_limit(self, asked: int | None) -> int:
        limit = asked if asked is not None else self._options.memory_limit_bytes
        if limit is None:
            return _STREAM_BYTES
        if isinstance(limit, bool) or not isinstance(limit, int):
            raise TypeError(f"memory_limit_bytes must be an int, not {type(limit).__name__}")
        if limit < 1:
            raise ValueError(f"memory_limit_bytes={limit}: expected 1 or more")
        return min(limit, 2**63 - 1)

    @property
    def report(self) -> Report:
        """What was read until now, by which engine and why. Its seconds are not counted."""
        report = self._access.report()
        report.files, report.tensors, report.unverified = self._described
        return report

    # ---- its life

    @property
    def _open_catalog(self) -> Catalog:
        if self._closed:
            raise UsageError(f"{self!r} is closed")
        return self._catalog

    def close(self) -> None:
        """Close. Tensors that were handed out stay; views can no longer be read."""
        if not self._closed:
            self._closed = True
            self._access.close()
            # Files are closed with the last view, tensor or stream that needs them.
            self._catalog = Catalog((), self._catalog.source)

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._closed:
            raise UsageError(f"{self!r} is closed, and cannot be pickled")
        return _reopen, self._arguments

    def __repr__(self) -> str:
        source = getattr(getattr(self, "_catalog", None), "source", "nothing")
        return f"<fastio.Reader of {source}>"


def _reopen(source: Source, name: str, verify: Verify, options: Options) -> Reader:
    return Reader(source, framework=name, verify=verify, options=options)


def _framework(name: object) -> Framework:
    try:
        return framework(name)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _absolute(source: Source) -> Source:
    if isinstance(source, (list, tuple)):
        return [os.path.abspath(item) for item in source]
    return os.path.abspath(source)


class TensorView:
    """A tensor that is not read yet: ``view[...]`` reads it, ``view[10:20]`` what that needs of it.

    Attributes
    ----------
    name : str
    info : TensorInfo
        Its `shape` is the logical one.
    shape : tuple of int
        Of the array: packed F4 counts pairs of values along the last axis.
    dtype
        The framework's.
    nbytes : int
    """

    __slots__ = ("_position", "_reader", "dtype", "info", "name", "nbytes", "shape")

    def __init__(self, reader: Reader, name: str) -> None:
        self._reader = reader
        self._position = reader._open_catalog.position(name)
        self.info = reader._open_catalog.info(name)
        check_dtype(self.info, reader._held_by)
        self.name = name
        self.shape = shape_in_memory(self.info.dtype, self.info.shape)
        self.dtype = reader._held_by.dtype_of(self.info.dtype)
        self.nbytes = self.info.nbytes

    @property
    def ndim(self) -> int:
        """How many axes it has."""
        return len(self.shape)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of an unsized tensor")
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        """Return a part, always as an array, of its own memory.

        Parameters
        ----------
        index
            As numpy has it: ints, slices with steps, Ellipsis and None along any axis; integers or
            booleans in an array along axis 0.

        Raises
        ------
        SelectionError
            Out of range, or of another kind.
        ChecksumError, MemoryError, MemoryLimitError, ReadError
            As `fastio.load` does.
        UsageError
            If the reader is closed.
        """
        _ = self._reader._open_catalog
        if index is Ellipsis:
            return self._reader._access.tensor(self._position)
        return self._reader._access.part(self._position, index)

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("a tensor that is not read yet cannot be had without a copy")
        return np.asarray(self[...], dtype=dtype)

    def __repr__(self) -> str:
        return f"<fastio.TensorView {self.name!r} {list(self.shape)} {self.dtype}>"


def open(
    source: Source,
    *,
    framework: str = "numpy",
    verify: bool | Literal["require"] = True,
    options: Options | None = None,
) -> Reader:
    """Open a source; tensors are read when they are asked for.

    Parameters
    ----------
    source : path or list of paths
        As `fastio.load` takes it.
    framework : {"numpy", "torch"}
    verify : bool or "require"
        As `fastio.load` takes it. A part of a tensor is verified by the whole chunks around it.
    options : Options, optional

    Returns
    -------
    Reader
        A context manager: ``reader[name][10:20]``, ``reader.read(names)``, ``reader.load()``,
        ``reader.stream()``.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, FormatError, ReadError
        As `fastio.load` does.
    TypeError, ValueError
        An argument that is none of the above.
    """
    return Reader(source, framework=framework, verify=verify, options=options)
