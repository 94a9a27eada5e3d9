"""Store: tensors on several roots, in generations, with replicas."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Any

from fastio.arguments.checks import check_kind
from fastio.arguments.paths import AnyPath, Source, not_found, paths_of
from fastio.display.values import one_line
from fastio.errors import UsageError
from fastio.formats import checksums
from fastio.options import Options, default_options
from fastio.report.events import emit
from fastio.storage.protocol import FILE_MODE
from fastio.store import arguments, creation
from fastio.store.address import GenerationAddress
from fastio.store.keeping import Keeping
from fastio.store.loads import Loads
from fastio.store.manifest import Settings
from fastio.store.members import Members
from fastio.store.opened import OpenStore, now_s
from fastio.store.partition import Partition
from fastio.store.pinned import Hold, PinnedGeneration
from fastio.store.verify import Verifying
from fastio.store.writes import Writes

Placement = str | Mapping[str, int | Sequence[int]]


class Store(Loads, Writes, Keeping, Verifying):
    """Tensors on several roots, in generations. `Store.create` and `Store.open` make one.

    A root is a folder, usually on a disk of its own. Each shard has replicas on several roots. A
    load reads from all roots at once, and from another replica if one fails. A save makes a new
    generation, which exists as a whole or not at all.

    Examples
    --------
    >>> store = fastio.Store.create(["nvme0", "nvme1"], replicas=2)
    >>> store.save({"weight": np.ones(3)})
    1
    >>> fastio.load("nvme1")
    {'weight': array([1., 1., 1.])}
    """

    def __init__(
        self, members: Members, pinned: PinnedGeneration, by: Partition | None = None
    ) -> None:
        self._opened = OpenStore(members, pinned, by)

    # ---- making and opening one

    @classmethod
    def create(
        cls,
        roots: Sequence[AnyPath],
        *,
        replicas: int = 2,
        shard_bytes: float | str | None = None,
        chunk_bytes: float | str | None = None,
        partition: Partition = "size",
        placement: Placement = "rendezvous",
        weights: Sequence[float] | None = None,
        mode: int = FILE_MODE,
    ) -> Store:
        """Create a store on folders that are empty or missing. Missing parents are created, too.

        Parameters
        ----------
        roots : sequence of path
            1 to 64, best each on a disk of its own, as `fastio.save` takes a path. A save needs a
            majority of them. A load needs any that have the bytes.
        replicas : int
            Number of roots that hold each shard.
        shard_bytes : int or str, optional
            Bytes of the tensors of a shard; a larger tensor is cut along axis 0. Default: 64 MiB to
            4 GiB, by the bytes of the save.
        chunk_bytes : int or str, optional
            Bytes of a checksum's chunk, a power of two from 64 KiB to 16 MiB. Default 1 MiB.
        partition : {"size", "hash", "range"} or callable
            Which tensors share a shard: neighbours in the order of the save; by a hash of the name;
            neighbours in the order of names; or those with the same result of a callable on the
            name.
        placement : {"rendezvous", "range"} or mapping
            Which roots hold a shard. "rendezvous" hashes, so that few shards move when roots
            change. "range" keeps neighbours together. A mapping has patterns of names
            (``"layers.*"``, the first match counts) and positions in `roots`.
        weights : sequence of float, optional
            Each root's share of bytes and reads, relative to the others. Default: all alike.
        mode : int
            Of files. Folders are searchable for all who may read. Default 0600.

        Raises
        ------
        WriteError
            A root is not empty, or cannot be written to.
        TypeError, ValueError
            An invalid argument.

        Examples
        --------
        >>> roots = ["nvme0", "nvme1", "nvme2"]
        >>> store = fastio.Store.create(roots, replicas=2, shard_bytes="1 GiB")
        >>> store.generation
        0
        """
        paths = arguments.paths(roots, to_write=True)
        arguments.check_count("replicas", replicas, 1, len(paths))
        shares = arguments.weights(weights, len(paths))
        uuids = sorted(uuid.uuid4().hex for _ in paths)
        settings = Settings(
            replicas=replicas,
            shard_bytes=arguments.size("shard_bytes", shard_bytes),
            chunk_bytes=checksums.checked_chunk_bytes(arguments.size("chunk_bytes", chunk_bytes)),
            partition=arguments.partition_name(partition),
            placement=placement if isinstance(placement, str) else "mapping",
            places=arguments.places(placement, uuids, replicas),
            file_mode=arguments.mode(mode),
        )
        members = creation.create(paths, uuids, shares, settings, now_s(), _timeout_s(None))
        return cls(members, members.pin(None, None), partition)

    @classmethod
    def adopt(cls, roots: Sequence[AnyPath], *, force: bool = False) -> Store:
        """Make a copied store a store of its own, which never joins its original.

        Copies of the roots have the UUIDs of the original, and their manifests name its paths. They
        get other UUIDs, and a new generation with their own paths.

        Parameters
        ----------
        roots : sequence of path
            All roots of the copy.
        force : bool
            Allow roots at the paths of the manifest, where the original's are.

        Returns
        -------
        Store
            With all generations of the copy.

        Raises
        ------
        FileNotFoundError
            One of them is no root.
        ReplicaError
            A root is not given or cannot be written to, or the newest generation is not whole.
        UsageError
            A root is at the path of its manifest: it is the original.
        ConflictError
            Another process adopts the copy at the same time.
        FormatError, WriteError

        Examples
        --------
        >>> copies = [shutil.copytree(root, f"copies/{root.name}") for root in store.roots]
        >>> fastio.Store.adopt(copies).generation
        2
        """
        paths = arguments.paths(roots)
        members = creation.adopt(paths, now_s(), _timeout_s(None), force=force)
        return cls(members, members.pin(None, None))

    @classmethod
    def open(
        cls,
        roots: Source,
        *,
        generation: int | None = None,
        min_generation: int | None = None,
        options: Options | None = None,
    ) -> Store:
        """Open a store.

        Parameters
        ----------
        roots : path or collection of path
            Any of its roots, each as `fastio.load` takes a path. The others are looked for at their
            last paths. A root at another path, such as a copy, leads to those that were copied or
            moved alike, and an event says so (see `adopt`).
        generation : int, optional
            The one to read. Default: the newest.
        min_generation : int, optional
            Refuse an older newest generation: these roots would come from a backup, or others are
            missing.
        options : Options, optional
            Its `root_timeout_s` is the longest wait for a root.

        Raises
        ------
        FileNotFoundError
            There is no store.
        ReplicaError
            No root has the needed bytes: each with its reason.
        StaleError
            The newest generation is older than `min_generation`.
        ConflictError
            The generation does not exist, or no longer.
        FormatError
            An invalid manifest, or one of a newer version.

        Examples
        --------
        >>> store = fastio.Store.open("disk0")
        >>> [root.name for root in store.roots]
        ['disk0', 'disk1']
        """
        for what, number in (("generation", generation), ("min_generation", min_generation)):
            if number is not None:
                arguments.check_count(what, number, 0, 2**63 - 1)
        check_kind("options", options, Options)
        paths = paths_of(roots)
        members = _members([paths] if isinstance(paths, str) else paths, _timeout_s(options))
        opened = cls(members, members.pin(generation, min_generation))
        for event in members.places.events:
            emit(event)
        return opened

    @property
    def generation(self) -> int:
        """The one that is read: the newest when the store was opened, or saved to."""
        return self._opened.pinned.generation

    @property
    def roots(self) -> tuple[PurePath, ...]:
        """Those that can be reached."""
        own = self._opened.pinned.standing.record.roots
        return tuple(root.path for uuid, root in self._opened.members.roots.items() if uuid in own)

    @one_line
    def __repr__(self) -> str:
        closed = ", closed" if self._opened.closed else ""
        return f"<fastio.Store {self._opened.members.name}, generation {self.generation}{closed}>"

    # ---- its life

    def close(self) -> None:
        """Release the roots and the generation, which may then be collected. Loaded tensors stay.

        Examples
        --------
        >>> tensors = store.load()
        >>> store.close()
        >>> sorted(tensors)
        ['bias', 'weight']
        """
        if not self._opened.closed:
            self._opened.closed = True
            # Loads and readers go on holding the generation, and its roots.
            self._opened.pinned = replace(self._opened.pinned, hold=Hold())
            self._opened.members.close()

    def __enter__(self) -> Store:
        self._opened.require_open()
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        self._opened.require_open()
        if callable(self._opened.by):
            raise UsageError("a store whose partition is a callable cannot be pickled")
        return _reopen, (
            GenerationAddress.of(self._opened.members, self._opened.pinned),
            self._opened.by,
        )

    def __exit__(self, *_: object) -> None:
        self.close()


def _members(typed: Sequence[str], timeout_s: float) -> Members:
    try:
        return Members(arguments.paths(typed, may_repeat=True), timeout_s)
    except FileNotFoundError as error:
        # Of an absolute path it cannot be told any more what was meant by it.
        raise not_found(typed[0], str(error.strerror)) from None


def _timeout_s(options: Options | None) -> float:
    return (options or default_options()).root_timeout_s


def _reopen(pin: GenerationAddress, by: str | None) -> Store:
    return Store(*pin.find(), by)
