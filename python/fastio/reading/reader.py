"""Reader: a source whose tensors are read when they are asked for, whole or in part."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from types import TracebackType
from typing import Any

from fastio.arguments.checks import check_kind
from fastio.arguments.sizes import whole_number
from fastio.display.values import one_line
from fastio.errors import MemoryLimitError, UsageError
from fastio.frameworks import Framework, FrameworkName
from fastio.frameworks import framework as framework_named
from fastio.options import Options, default_options
from fastio.reading import device_stream, fetch, verification
from fastio.reading.ahead import in_file_order
from fastio.reading.devices import DeviceLoad, chooser
from fastio.reading.loading import describe, read_all, summed_up
from fastio.reading.located import Cut, LocatedSource
from fastio.reading.naming import TensorMapping
from fastio.reading.single import Access
from fastio.reading.tally import Tally
from fastio.reading.verification import Verify, check_verify
from fastio.reading.view import TensorView
from fastio.report import Report

_log = logging.getLogger("fastio")
_STREAM_BYTES = 2**28


class Reader(TensorMapping):
    """The tensors of a source, each read when it is asked for.

    It is like a mapping from names to views that are not read yet: ``reader[name]``, ``name in
    reader``, `keys`, `values`, `items`, `get`, `len`. `stream`, `read` and `load` read.

    Any number of threads may use a reader at once, and so may a forked child. A file that is
    replaced meanwhile stays the one that was opened. A pickle holds the path and the options, and
    opens the file that has the path by then. The pickle of a store's reader opens the same
    generation of the same store, or raises.

    Parameters
    ----------
    find : callable
        Locates the source, given the options, and says how another process locates it again.
    framework, verify, options
        As `fastio.open` takes them.

    Examples
    --------
    >>> reader = fastio.open("model.safetensors")
    >>> for name, view in reader.items():
    ...     print(name, view.shape)
    bias (3,)
    weight (2, 3)
    """

    def __init__(
        self,
        find: Callable[[Options], LocatedSource],
        *,
        framework: FrameworkName = "numpy",
        verify: Verify = True,
        options: Options | None = None,
    ) -> None:
        self._closed = True
        check_verify(verify)
        check_kind("options", options, Options)
        self._framework: Framework = framework_named(framework)
        self._verify = bool(verify)
        options = options or default_options()
        located = find(options)
        assert located.again is not None  # a reader can be pickled
        self._reopened = (located.again, framework, verify, options)
        self._located = located.to_keep()
        self._options = located.narrowed(options)
        self._watch = self._located.watch
        verification.check(self._located, self._located, verify)
        self._described = Report()
        describe(self._described, self._located, verified=self._verify)
        if self._located.catalog.absent.files:
            self._described.fallbacks = self._located.catalog.absent.lines()
            _log.warning("%s", "; ".join(self._described.fallbacks))
        self._tally = Tally()
        self._access = Access(
            self._located,
            self._framework,
            verify=self._verify,
            options=self._options,
            tally=self._tally,
        )
        self._closed = False

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
        """Return a whole tensor with memory of its own.

        A loop over the names is recognised, and the next tensors are read ahead.

        Raises
        ------
        ChecksumError, MemoryError, MemoryLimitError, ReadError, TypeError
            As `fastio.load` does.
        TensorNotFoundError
            With close matches.
        UsageError
            The reader is closed.

        Examples
        --------
        >>> reader = fastio.open("model.safetensors")
        >>> reader.tensor("bias")
        array([0., 0., 0.], dtype=float32)
        """
        return self._whole(self._open_source.position(name))

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

        Examples
        --------
        >>> reader = fastio.open("model.safetensors")
        >>> list(reader.read(["weight", "bias"]))
        ['weight', 'bias']
        """
        if not isinstance(names, (str, bytes)):
            names = tuple(names)
        tensors = self._load(self._open_source.select(names))
        return {name: tensors[name] for name in names}

    def load(self, *, device: Any = None) -> dict[str, Any]:
        """Return all tensors, in file order.

        Parameters
        ----------
        device : str, int or torch.device, optional
            As `fastio.load` takes it.

        Raises
        ------
        ChecksumError, DeviceError, MemoryError, MemoryLimitError, ReadError, TypeError
            As `fastio.load` does.
        UsageError
            If the reader is closed, or there is no such device.

        Examples
        --------
        >>> reader = fastio.open("model.safetensors")
        >>> list(reader.load())
        ['bias', 'weight']
        """
        choose = chooser(self._framework, device, None, None)
        if choose is None:
            return self._load(self._open_source)
        with self._tally.job(), summed_up(self._located):
            load = DeviceLoad(
                self._open_source,
                self._framework,
                choose,
                verify=self._verify,
                options=self._options,
            )
            load.wait()
            self._tally.count(load.statistics)
            return load.tensors()

    def _load(self, located: LocatedSource) -> dict[str, Any]:
        counted = Report()
        try:
            with self._tally.job():
                return read_all(
                    located,
                    self._framework,
                    verify=self._verify,
                    options=self._options,
                    report=counted,
                )
        finally:
            self._tally.merge(counted)
            if located.watch is not None:
                located.watch.sum_up()

    def _whole(self, position: tuple[int, int] | Cut) -> Any:
        return self._access.all(position)

    def _part(self, position: tuple[int, int] | Cut, index: Any) -> Any:
        return self._access.some(position, index)

    def stream(
        self,
        names: Collection[str] | None = None,
        *,
        memory_limit_bytes: float | str | None = None,
        device: Any = None,
    ) -> Iterator[tuple[str, Any]]:
        """Yield names and tensors in file order, read ahead in bounded memory.

        Parameters
        ----------
        names : collection of str, optional
            Only these; default: all.
        memory_limit_bytes : int or str, optional
            Bound on the bytes that were read and not yet yielded. A larger tensor is read alone.
            Default: that of the options, or else 256 MiB. With a device it bounds the memory there;
            the default is `Options.device_memory_limit_bytes`.
        device : str, int or torch.device, optional
            As `fastio.load` takes it.

        Returns
        -------
        iterator of (str, array)
            The caller owns each yielded tensor. Dropped half-way, the iterator frees the others.

        Raises
        ------
        ChecksumError, MemoryError, ReadError
            As `fastio.load` does, when the damaged tensor's turn comes.
        MemoryLimitError
            A limit smaller than a chunk.
        TensorNotFoundError
            With close matches.
        TypeError, ValueError
            A dtype that the framework lacks; an invalid limit.
        UsageError
            The reader is closed.

        Examples
        --------
        >>> reader = fastio.open("model.safetensors")
        >>> for name, tensor in reader.stream(memory_limit_bytes="64 MiB"):
        ...     print(name, tensor.sum())
        bias 0.0
        weight 15.0
        """
        if names is not None and not isinstance(names, (str, bytes)):
            names = tuple(names)
        located = self._open_source if names is None else self._open_source.select(names)
        fetch.check_held(located, self._framework)
        choose = chooser(self._framework, device, None, None)
        if choose is not None:
            return device_stream.in_file_order(
                located,
                self._framework,
                choose,
                verify=self._verify,
                options=self._options,
                window_bytes=self._stream_limit(memory_limit_bytes),
                tally=self._tally,
            )
        limit = self._stream_limit(memory_limit_bytes)
        for shard in located.shards:
            if self._verify and shard.table is not None and shard.table.chunk_bytes > limit:
                raise MemoryLimitError(shard.table.chunk_bytes, limit)
        whole = in_file_order(
            located,
            self._framework,
            verify=self._verify,
            options=self._options,
            window_bytes=limit,
            tally=self._tally,
        )
        return whole if located.watch is None else self._and_cut(whole, located)

    def _and_cut(
        self, whole: Iterator[tuple[str, Any]], located: LocatedSource
    ) -> Iterator[tuple[str, Any]]:
        with summed_up(located):
            yield from whole
            for name, cut in located.cuts.items():
                yield name, self._access.cut(cut)

    def _stream_limit(self, asked: float | str | None) -> int:
        limit = asked if asked is not None else self._options.memory_limit_bytes
        if limit is None:
            return _STREAM_BYTES
        limit = whole_number("memory_limit_bytes", limit)
        if limit < 1:
            raise ValueError(f"memory_limit_bytes={limit}: expected 1 or more")
        return min(limit, 2**63 - 1)

    @property
    def report(self) -> Report:
        """All reads until now: bytes, seconds, the engine, and why it was chosen. See
        `fastio.Report`.
        """
        report, described = self._tally.report(), self._described
        report.files, report.tensors = described.files, described.tensors
        report.unverified = described.unverified
        report.fallbacks = described.fallbacks + report.fallbacks
        if self._watch is not None:
            report.note(self._watch.events())
        return report

    # ---- its life

    @property
    def _open_source(self) -> LocatedSource:
        if self._closed:
            raise UsageError(f"the reader of {self._located.source} is closed")
        return self._located

    def close(self) -> None:
        """Close. Tensors that were handed out stay; views can no longer be read.

        Examples
        --------
        >>> reader = fastio.open("model.safetensors")
        >>> bias = reader.tensor("bias")
        >>> reader.close()
        >>> bias
        array([0., 0., 0.], dtype=float32)
        """
        if not self._closed:
            self._closed = True
            self._access.close()
            if self._watch is not None:
                self._watch.sum_up()
            # Files are closed with the last view, tensor or stream that needs them.
            self._located = self._located.closed()

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
            raise UsageError(
                f"the reader of {self._located.source} is closed, and cannot be pickled"
            )
        return _reopen, self._reopened

    @one_line
    def __repr__(self) -> str:
        return f"<fastio.Reader of {self._located.source}{', closed' if self._closed else ''}>"


def _reopen(
    again: Callable[[Options], LocatedSource], name: FrameworkName, verify: Verify, options: Options
) -> Reader:
    return Reader(again, framework=name, verify=verify, options=options)
