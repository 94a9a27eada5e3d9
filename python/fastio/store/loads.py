"""The calls that read one generation of a store."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, overload

from fastio.arguments.checks import check_kind
from fastio.frameworks import FrameworkName, NumpyName, TorchName
from fastio.frameworks.handed import check_mapping
from fastio.options import Options
from fastio.reading.handle import LoadHandle
from fastio.reading.into import fill
from fastio.reading.load import Load, To
from fastio.reading.reader import Reader
from fastio.reading.verification import Verify, check_verify
from fastio.reading.watch import OnDamage
from fastio.report import Report
from fastio.store.opened import OpenStore

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch


class Loads:
    """The part of a `Store` that reads."""

    _opened: OpenStore

    @overload
    def load(
        self,
        *,
        framework: NumpyName = "numpy",
        names: Collection[str] | None = None,
        verify: Verify = True,
        on_damage: OnDamage = "continue",
        generation: int | None = None,
        options: Options | None = None,
        progress: bool = False,
        report: Report | None = None,
        device: Any = None,
        device_map: Mapping[str, Any] | None = None,
        stream: Any = None,
    ) -> dict[str, npt.NDArray[Any]]: ...

    @overload
    def load(
        self,
        *,
        framework: TorchName,
        names: Collection[str] | None = None,
        verify: Verify = True,
        on_damage: OnDamage = "continue",
        generation: int | None = None,
        options: Options | None = None,
        progress: bool = False,
        report: Report | None = None,
        device: Any = None,
        device_map: Mapping[str, Any] | None = None,
        stream: Any = None,
    ) -> dict[str, torch.Tensor]: ...

    @overload
    def load(
        self,
        *,
        framework: FrameworkName,
        names: Collection[str] | None = None,
        verify: Verify = True,
        on_damage: OnDamage = "continue",
        generation: int | None = None,
        options: Options | None = None,
        progress: bool = False,
        report: Report | None = None,
        device: Any = None,
        device_map: Mapping[str, Any] | None = None,
        stream: Any = None,
    ) -> dict[str, Any]: ...

    def load(
        self,
        *,
        framework: FrameworkName = "numpy",
        names: Collection[str] | None = None,
        verify: Verify = True,
        on_damage: OnDamage = "continue",
        generation: int | None = None,
        options: Options | None = None,
        progress: bool = False,
        report: Report | None = None,
        device: Any = None,
        device_map: Mapping[str, Any] | None = None,
        stream: Any = None,
    ) -> dict[str, Any]:
        """Load tensors, from all roots at once.

        Parameters
        ----------
        framework, names, verify, options, progress, report, device, device_map, stream
            As `fastio.load` takes them.
        on_damage : {"continue", "repair", "raise"}
            "continue" reads a bad chunk from another replica. "repair" also writes the bad replica
            anew. "raise" fails. The report lists each bad chunk. A load mostly reads one replica of
            each block, and finds damage only there. ``report.replicas_unread`` and ``bytes_unread``
            count the rest; `Store.verify` reads all.
        generation : int, optional
            Default: the one that this store was opened with.

        Returns
        -------
        dict of str to array
            As from `fastio.load`.

        Raises
        ------
        ReplicaError
            Some bytes have no good replica: each with its reason.
        As `fastio.load` does besides.

        Examples
        --------
        >>> store.load(names=["bias"], on_damage="repair")
        {'bias': array([0., 0., 0.], dtype=float32)}
        """
        begun = Load(
            self._opened.find(on_damage, generation, options),
            framework=framework,
            names=names,
            verify=verify,
            options=options,
            report=report,
            to=To(device, device_map, stream),
        )
        return begun.now(progress=progress)

    def start_load(
        self,
        *,
        framework: FrameworkName = "numpy",
        names: Collection[str] | None = None,
        verify: Verify = True,
        on_damage: OnDamage = "continue",
        generation: int | None = None,
        options: Options | None = None,
        report: Report | None = None,
        device: Any = None,
        device_map: Mapping[str, Any] | None = None,
        stream: Any = None,
    ) -> LoadHandle:
        """Start to load tensors, and return while they are read, as `fastio.start_load` does.

        Returns
        -------
        LoadHandle
            It goes on when the store is closed.

        Raises
        ------
        As `load` does, for all that is found before the first byte is read.

        Examples
        --------
        >>> handle = store.start_load()
        >>> sorted(handle.wait())
        ['bias', 'weight']
        """
        return LoadHandle(
            Load(
                self._opened.find(on_damage, generation, options),
                framework=framework,
                names=names,
                verify=verify,
                options=options,
                report=report,
                to=To(device, device_map, stream),
            )
        )

    def reader(
        self,
        *,
        framework: FrameworkName = "numpy",
        verify: Verify = True,
        on_damage: OnDamage = "continue",
        generation: int | None = None,
        options: Options | None = None,
    ) -> Reader:
        """Open a generation, and read each tensor when it is asked for, as `fastio.open` does.

        A slice of a tensor that was cut reads only the shards that it touches.

        Raises
        ------
        As `load` does.

        Examples
        --------
        >>> with store.reader() as reader:
        ...     reader["weight"][:, 1]
        array([1., 4.], dtype=float32)
        """
        find = self._opened.find(on_damage, generation, options)
        return Reader(lambda _: find(None), framework=framework, verify=verify, options=options)

    def load_into(
        self,
        tensors: Mapping[str, Any],
        *,
        verify: Verify = True,
        strict: bool = True,
        on_damage: OnDamage = "continue",
        generation: int | None = None,
        options: Options | None = None,
        progress: bool = False,
        report: Report | None = None,
    ) -> None:
        """Fill arrays and tensors that exist, as `fastio.load_into` does.

        Raises
        ------
        ReplicaError
            If no replica of some bytes is left.
        As `fastio.load_into` does besides.

        Examples
        --------
        >>> bias = np.ones(3, np.float32)
        >>> store.load_into({"bias": bias}, strict=False)
        >>> bias
        array([0., 0., 0.], dtype=float32)
        """
        check_verify(verify)
        check_kind("options", options, Options)
        check_kind("report", report, Report)
        check_mapping(tensors)
        find = self._opened.find(on_damage, generation, options)
        fill(
            lambda: find(tuple(tensors) if not strict else None),
            tensors,
            verify=verify,
            strict=strict,
            options=options if options is not None else Options(),
            progress=progress,
            report=report if report is not None else Report(),
        )

    def stream(
        self,
        names: Collection[str] | None = None,
        *,
        framework: FrameworkName = "numpy",
        verify: Verify = True,
        on_damage: OnDamage = "continue",
        generation: int | None = None,
        memory_limit_bytes: float | str | None = None,
        options: Options | None = None,
        device: Any = None,
    ) -> Iterator[tuple[str, Any]]:
        """Yield names and tensors, read ahead in bounded memory, as `Reader.stream` does.

        Tensors that were cut come last; each is read at its turn.

        Raises
        ------
        ReplicaError
            Some bytes have no good replica.
        As `Reader.stream` does besides.

        Examples
        --------
        >>> for name, tensor in store.stream(memory_limit_bytes="64 MiB"):
        ...     print(name, tensor.sum())
        bias 0.0
        weight 15.0
        """
        reader = self.reader(
            framework=framework,
            verify=verify,
            on_damage=on_damage,
            generation=generation,
            options=options,
        )
        return _streamed(
            reader, reader.stream(names, memory_limit_bytes=memory_limit_bytes, device=device)
        )


def _streamed(reader: Reader, inner: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    with reader:
        yield from inner
