"""The small files of a root, and its folders: the problems of each, and when it was verified."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from fastio.errors import FastioError, ReadError
from fastio.store.documents import DOCUMENT_BYTES_MAX, Record, Verified
from fastio.store.history import Standing, established
from fastio.store.layout import (
    COMMITS,
    FOLDERS,
    LOCK,
    MANIFESTS,
    PROMISE,
    SHARDS,
    VERIFIED,
    manifest_name,
    record_name,
)
from fastio.store.manifest import MANIFEST_BYTES_MAX, Manifest, ShardEntry
from fastio.store.members import Members
from fastio.store.root import Root

_STEP_BYTES = 2**20
_NO_TENSORS = msgspec.Raw(b"{}")
_QUICK_BYTES_MAX = 2**26  # of manifests that a quick look reads on one root

Kind = Literal["root", "folder", "lock", "promise", "verified", "manifest", "record", "shard"]


@dataclass(frozen=True)
class Problem:
    """A file of a store that is damaged, missing or cannot be read.

    Attributes
    ----------
    kind : str
    root : str
        UUID; empty for a root that cannot be opened.
    path : str
    cause : str
    name : str
        Of the file in its folder.
    generation : int or None
        Of a manifest or a record.
    """

    kind: Kind
    root: str
    path: str
    cause: str
    name: str = ""
    generation: int | None = None


@dataclass
class KeptGenerations:
    """The generations that a store has, and what each of them needs.

    Attributes
    ----------
    standings : list of Standing
        The newest first.
    lost : dict of int to str
        Generations whose manifest no root has, with the reason.
    manifests : dict of str to int
        Bytes of each manifest, by its digest.
    shards : dict of str to ShardEntry
        By file name, without their tensors.
    files_by_root : dict of str to set of str
        By root's UUID, the files that it is to hold.
    files_mode : int
        Of new files.
    """

    standings: list[Standing]
    lost: dict[int, str] = field(default_factory=dict)
    manifests: dict[str, int] = field(default_factory=dict)
    shards: dict[str, ShardEntry] = field(default_factory=dict)
    files_by_root: dict[str, set[str]] = field(default_factory=dict)
    files_mode: int = 0o600

    @classmethod
    def of(cls, members: Members, newest: int) -> KeptGenerations:
        """Return the generations up to the newest that is there, and what they need.

        Parameters
        ----------
        members : Members
        newest : int
            As `Members.pin` has chosen it.

        Raises
        ------
        Nothing: what no root has is part of the answer.
        """
        found = cls(established(members.standings(), newest))
        for standing in found.standings:
            try:
                encoded = members.manifest(standing.record)
            except FastioError as error:
                found.lost[standing.record.generation] = str(error)
                continue
            if standing is found.standings[0]:
                found.files_mode = encoded.manifest.settings.file_mode
            found.manifests[encoded.digest] = len(encoded.data)
            found.add(encoded.manifest)
        return found

    def add(self, manifest: Manifest) -> None:
        """Count what one generation needs."""
        for shard in manifest.shards:
            for at in shard.roots:
                self.files_by_root.setdefault(manifest.roots[at].uuid, set()).add(shard.file)
            if shard.file not in self.shards:
                self.shards[shard.file] = ShardEntry(
                    shard.file, shard.nbytes, shard.start, shard.digest, (), _NO_TENSORS
                )


# ---- one root


def looked(root: Root, kept: KeptGenerations, *, quick: bool) -> list[Problem]:
    """Return what `look` yields; of a root that does not answer, that.

    Raises
    ------
    Nothing.
    """
    try:
        return root.answering.ask(lambda: list(look(root, kept, quick=quick)))
    except ReadError as error:
        path = str(root.path)
        return [Problem("root", root.uuid, path, _cause(error, path))]


def look(root: Root, kept: KeptGenerations, *, quick: bool) -> Iterator[Problem]:
    """Yield what is wrong with the small files of a root, and with its folders.

    Parameters
    ----------
    root : Root
    kept : KeptGenerations
    quick : bool
        Whether to take bytes from the page cache, and to compare only the first manifests as a
        whole; of others the size.

    Raises
    ------
    Nothing: what cannot be read is a problem, too.
    """
    upkeep = root.storage.upkeep
    folders = {sub: problem for sub in FOLDERS if (problem := upkeep.folder_problem(sub))}
    for sub, problem in folders.items():
        yield Problem("folder", root.uuid, str(root.path / sub), problem, sub)
    for kind, name, problem in (
        ("lock", LOCK, upkeep.lock_problem(LOCK)),
        ("promise", PROMISE, _promise_problem(root, quick=quick)),
        ("verified", VERIFIED, _verified_problem(root)),
    ):
        if problem:
            yield Problem(kind, root.uuid, str(root.path / name), problem, name)  # type: ignore[arg-type]
    if MANIFESTS not in folders:
        yield from _manifests(root, kept, quick=quick)
    if COMMITS not in folders:
        yield from _records(root, kept.standings, quick=quick)


def verified_at(root: Root) -> int | None:
    """Return when a root was last found whole, in seconds since 1970; None where that is not known.

    Raises
    ------
    Nothing.
    """
    with contextlib.suppress(FastioError, OSError):
        document = _verified(root)
        if (document.store, document.root) == (root.identity.store, root.uuid):
            return document.verified_at_s
    return None


def _verified(root: Root) -> Verified:
    data = root.storage.read("", VERIFIED, DOCUMENT_BYTES_MAX)
    return Verified.decode(data, str(root.path / VERIFIED))


def _verified_problem(root: Root) -> str:
    try:
        _verified(root)
    except FileNotFoundError:
        return ""
    except (FastioError, OSError) as error:
        return _cause(error, str(root.path / VERIFIED))
    return ""


def _promise_problem(root: Root, *, quick: bool) -> str:
    try:
        if not quick:
            root.storage.upkeep.drop_cached("", PROMISE)
        root.promised()
    except (FastioError, OSError) as error:
        return _cause(error, str(root.path / PROMISE))
    return ""


def _manifests(root: Root, kept: KeptGenerations, *, quick: bool) -> Iterator[Problem]:
    seen = set()
    left = _QUICK_BYTES_MAX
    for standing in kept.standings:
        record = standing.record
        if root.uuid not in record.roots or record.manifest in seen:
            continue
        seen.add(record.manifest)
        name = manifest_name(record.manifest)
        path = str(root.path / MANIFESTS / name)
        problem = kept.lost.get(record.generation, "") and "no root has it"
        try:
            nbytes = root.storage.size(MANIFESTS, name)
            left -= nbytes
            if nbytes != kept.manifests.get(record.manifest, nbytes):
                problem = f"has {nbytes} bytes, {kept.manifests[record.manifest]} expected"
            elif (not quick or left >= 0) and _digest(root, name, quick) != record.manifest:
                problem = "is damaged: its SHA-256 is not the one that it is named by"
        except (FastioError, OSError) as error:
            problem = _cause(error, path)
        if problem:
            yield Problem("manifest", root.uuid, path, problem, name, record.generation)


def _digest(root: Root, name: str, quick: bool) -> str:
    """The SHA-256 of a manifest, some bytes at a time."""
    if not quick:
        root.storage.upkeep.drop_cached(MANIFESTS, name)
    digest = hashlib.sha256()
    done = 0
    while done <= MANIFEST_BYTES_MAX:
        data = root.storage.read_range(MANIFESTS, name, done, _STEP_BYTES)
        if not data:
            break
        digest.update(data)
        done += len(data)
    return digest.hexdigest()


def _records(root: Root, standings: Sequence[Standing], *, quick: bool) -> Iterator[Problem]:
    def path(generation: int) -> str:
        return str(root.path / COMMITS / record_name(generation))

    try:
        if not quick:
            for name in root.storage.names(COMMITS):
                root.storage.upkeep.drop_cached(COMMITS, name)
        own = root.records()
    except (FastioError, OSError) as error:
        folder = str(root.path / COMMITS)
        yield Problem("folder", root.uuid, folder, _cause(error, folder), COMMITS)
        return
    known = {standing.record.generation for standing in standings}
    for generation in sorted(root.damaged - known):
        cause = "is damaged, and no root has a sound one"
        yield Problem("record", root.uuid, path(generation), cause, "", generation)
    for standing in standings:
        at = standing.record.generation
        problem = _record_problem(root, standing, own, path(at))
        if problem:
            yield Problem("record", root.uuid, path(at), problem, record_name(at), at)


def _record_problem(root: Root, standing: Standing, own: Mapping[int, Record], path: str) -> str:
    record = standing.record
    if root.uuid not in record.roots:
        return ""
    if record.generation in root.damaged:
        noted = (why for why in root.problems if why.startswith(f"{path}: "))
        return next(noted, "is damaged").removeprefix(f"{path}: ")
    mine = own.get(record.generation)
    if mine is None:
        return f"is missing: this root lags, and lacks generation {record.generation}"
    if not mine.proposes_the_same(record):
        return "is of a save that was outvoted by the other roots"
    return ""


def _cause(error: Exception, path: str) -> str:
    if isinstance(error, FileNotFoundError):
        return "is missing"
    return str(error).removeprefix(f"{path}: ")


def strays(root: Root, needed: Collection[str], kept: KeptGenerations) -> tuple[int, int]:
    """Return how many files of a root no generation names, and their bytes.

    Raises
    ------
    Nothing.
    """
    count = nbytes = 0
    named = {
        SHARDS: set(needed),
        MANIFESTS: {manifest_name(standing.record.manifest) for standing in kept.standings},
    }
    for sub, names in named.items():
        with contextlib.suppress(FastioError, OSError):
            for name, size in root.storage.sizes(sub).items():
                if name not in names:
                    count += 1
                    nbytes += size
    return count, nbytes
