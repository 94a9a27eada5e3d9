"""The calls that write the next generation of a store."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastio.arguments.checks import check_kind
from fastio.display.progress import import_progress_bar, progress_bar
from fastio.display.values import shown
from fastio.errors import UsageError
from fastio.formats import checksums
from fastio.host.shortage import memory_named
from fastio.options import Options
from fastio.report import Report
from fastio.saving.origins import checked_metadata, origins_of
from fastio.store import reading
from fastio.store.commit import Session
from fastio.store.manifest import Manifest
from fastio.store.opened import OpenStore, now_s
from fastio.store.partition import Partition
from fastio.store.saving import Plan
from fastio.store.shards import RootFailed


class Writes:
    """The part of a `Store` that writes."""

    _opened: OpenStore

    def save(
        self,
        tensors: Mapping[str, Any],
        *,
        metadata: Mapping[str, str] | None = None,
        partition: Partition | None = None,
        options: Options | None = None,
        progress: bool = False,
        report: Report | None = None,
    ) -> int:
        """Save tensors as a new generation, durably. Unchanged shards are used again.

        Parameters
        ----------
        tensors : mapping of str to numpy.ndarray or torch.Tensor
            As `fastio.save` takes them.
        metadata : mapping of str to str, optional
        partition : str or callable, optional
            As in `create`. Default: that of the store. A store that was created with a callable,
            and opened again, needs it.
        options, progress, report
            As `fastio.save` takes them; ``report.bytes_reused`` counts the bytes of unchanged
            shards.

        Returns
        -------
        int
            The number of the generation.

        Raises
        ------
        ReplicaError
            No majority of the roots can be written to, or fewer than `replicas`: each bad root with
            its reason, such as a full disk. The store is unchanged, unless the message says that
            the generation is in doubt.
        ConflictError
            Another process keeps writing to this store.
        FormatError, TypeError, ValueError
            As `fastio.save` does.

        Examples
        --------
        >>> store.save({"weight": np.ones(3)}, metadata={"step": "1000"})
        2
        """
        return self._save(tensors, metadata, partition, options, progress, report, added=False)

    def add(
        self,
        name: str,
        array: Any,
        *,
        options: Options | None = None,
        report: Report | None = None,
    ) -> int:
        """Add one tensor: a new generation that also has all tensors of the newest one.

        Returns
        -------
        int
            The number of the generation.

        Raises
        ------
        UsageError
            A tensor has this name.
        As `save` does besides.

        Examples
        --------
        >>> store.add("scale", np.ones(3))
        2
        >>> sorted(store.load())
        ['bias', 'scale', 'weight']
        """
        return self._save({name: array}, None, None, options, False, report, added=True)

    def _save(
        self,
        tensors: Mapping[str, Any],
        metadata: Mapping[str, str] | None,
        by: Partition | None,
        options: Options | None,
        progress: bool,
        report: Report | None,
        *,
        added: bool,
    ) -> int:
        begun, cpu_begun = time.perf_counter(), time.process_time()
        check_kind("options", options, Options)
        check_kind("report", report, Report)
        found = origins_of(tensors)
        stored = checksums.without_own_keys(checked_metadata(metadata) or {})
        counted = report if report is not None else Report()
        counted.clear()
        options = options if options is not None else Options()
        if progress:
            import_progress_bar()
        order = list(tensors)

        def write(session: Session, is_cancelled: Callable[[], bool]) -> int:
            assert session.head is not None  # a store is created with a generation
            parent = session.head.manifest
            if added:
                self._check_free(found.names, parent)
            lost: list[str] = []
            while True:
                counted.clear()
                chosen = self._opened.partition(by, parent.settings)
                plan = Plan(session, parent.settings, chosen, self._opened.members.placed)
                wanted = plan.lay_out(found, order)
                try:
                    bar = progress_bar(self._opened.members.name, found.data_bytes, shown=progress)
                    with bar as advance:
                        plan.write(wanted, options, counted, advance, is_cancelled)
                    break
                except RootFailed as failed:
                    session.abandon(failed.root, failed.error)
                    session.require_majority(f"generation {session.generation + 1}")
                    lost.append(f"{failed.error}; its share went to the other roots")
            if added:
                encoded = plan.manifest(wanted, parent.metadata, kept=parent)
            else:
                encoded = plan.manifest(wanted, stored)
            generation = session.commit(encoded, now_s()).generation
            counted.fallbacks += tuple(lost)
            return generation

        nbytes = found.data_bytes
        with memory_named(
            self._opened.members.name, lambda: f"a save of tensors of {nbytes} bytes"
        ):
            generation = self._opened.in_turn(write)
        counted.tensors = len(found.names)
        if not counted.engine:
            counted.engine, counted.engine_reason = "none", "every shard was there already"
        counted.seconds = time.perf_counter() - begun
        counted.cpu_seconds = time.process_time() - cpu_begun
        counted.log("saved generation %d of %s", generation, self._opened.members.name)
        return generation

    def _check_free(self, names: Sequence[str], parent: Manifest) -> None:
        there = reading.names(parent, self._opened.members.name)
        for name in names:
            if name in there:
                raise UsageError(
                    f"{self._opened.members.name}: there is a tensor {shown(name)} already"
                )
