"""The manifest: which tensors a generation has, in which shards, and which roots have these.

Canonical JSON, named by its own SHA-256 and never changed. It repeats the headers of the shards, so
that a store opens without reading them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from fastio.display.values import shown
from fastio.errors import FormatError
from fastio.host import collector
from fastio.store.documents import ROOTS_MAX, is_digest, is_weight

MANIFEST_BYTES_MAX = 2**31
_VERSION = 1
_FILE = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,200}\.safetensors")
_NAME = re.compile(r"[0-9a-f]{32}")
_KIND = "fastio.manifest"


class RootEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A root of a generation: its UUID, weight, and where it was last."""

    uuid: str
    weight: float
    path: str


class ShardEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A shard, without its tensors.

    Attributes
    ----------
    file : str
        Its name in the folder of shards.
    nbytes, start : int
        Of the whole file; and of its header, behind which the data begins.
    digest : str
        SHA-256 of the first `start` bytes, which hold the checksums of the others.
    roots : tuple of int
        Which roots have it, by their place among the manifest's.
    tensors : msgspec.Raw
        What its header says of its tensors, an object.
    """

    file: str
    nbytes: int
    start: int
    digest: str
    roots: tuple[int, ...]
    tensors: msgspec.Raw


class CutEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A tensor that was cut along axis 0.

    Attributes
    ----------
    dtype : str
    shape : tuple of int
    pieces : tuple of (int, str)
        The shard of each piece, and what it is called there, in the order of their rows.
    """

    dtype: str
    shape: tuple[int, ...]
    pieces: tuple[tuple[int, str], ...]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a store is written to, as its creator had it.

    Attributes
    ----------
    replicas : int
        On how many roots each shard is.
    shard_bytes : int or None
        None: by how much there is, and on how many roots.
    chunk_bytes : int
    partition, placement : str
        ``callable`` and ``mapping`` where these were given.
    places : tuple of (str, tuple of str)
        A mapping, in its order: patterns of names, and the UUIDs of roots.
    file_mode : int
        Of new files.
    """

    replicas: int
    shard_bytes: int | None
    chunk_bytes: int
    partition: str
    placement: str
    places: tuple[tuple[str, tuple[str, ...]], ...]
    file_mode: int


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a generation is.

    Attributes
    ----------
    store : str
        UUID.
    roots : tuple of RootEntry
    shards : tuple of ShardEntry
    cuts : dict of str to CutEntry
    metadata : dict of str to str
        The user's.
    settings : Settings
    required_features : tuple of str
        What a reader must know; there is nothing yet.
    """

    store: str
    roots: tuple[RootEntry, ...]
    shards: tuple[ShardEntry, ...]
    cuts: dict[str, CutEntry]
    metadata: dict[str, str]
    settings: Settings
    required_features: tuple[str, ...] = ()
    format: str = _KIND
    version: int = _VERSION


@dataclass(frozen=True)
class EncodedManifest:
    """A manifest and the digest that it is named by."""

    manifest: Manifest
    digest: str
    data: bytes


class _Preface(msgspec.Struct):
    """The fields of a manifest that every version understands."""

    format: str = ""
    version: Any = None
    required_features: tuple[str, ...] = ()


_preface = msgspec.json.Decoder(_Preface)
_decoder = msgspec.json.Decoder(Manifest)
_encoder = msgspec.json.Encoder(order="sorted")


def encode(manifest: Manifest) -> EncodedManifest:
    """Return a manifest as it is stored.

    Raises
    ------
    Nothing.
    """
    with collector.CollectorPaused():
        data = _encoder.encode(manifest) + b"\n"
    return EncodedManifest(manifest, hashlib.sha256(data).hexdigest(), data)


def decode(data: bytes, digest: str, path: str) -> EncodedManifest:
    """Read a manifest; what it names is checked, its tensors are not yet looked at.

    Parameters
    ----------
    data : bytes
    digest : str
        What it is named by.
    path : str
        For messages.

    Raises
    ------
    FormatError
        If it is damaged, of a version that is not known, or names what no store has.
    """
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        raise FormatError(path, f"is damaged: its SHA-256 is {found}", expected=digest)
    try:
        preface = _preface.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise FormatError(path, f"is no manifest: {error}", expected="JSON of one") from None
    if preface.format != _KIND or preface.version != _VERSION or preface.required_features:
        needs = f", needing {', '.join(map(shown, preface.required_features))}"
        raise FormatError(
            path,
            f"is {shown(preface.format)} of version {shown(preface.version)}"
            f"{needs if preface.required_features else ''}",
            expected=f"{_KIND!r} of version {_VERSION}, or a newer fastio, which wrote it perhaps",
        )
    try:
        with collector.CollectorPaused():
            manifest = _decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise FormatError(path, f"is no sound manifest: {error}", expected="one") from None
    _check_roots(manifest, path)
    _check_shards(manifest, path)
    for name, cut in manifest.cuts.items():
        if not cut.pieces or any(not 0 <= at < len(manifest.shards) for at, _ in cut.pieces):
            raise FormatError(path, f"has the pieces of {shown(name)} in shards that it has not")
    return EncodedManifest(manifest, digest, data)


def _check_roots(manifest: Manifest, path: str) -> None:
    uuids = [root.uuid for root in manifest.roots]
    if not 1 <= len(uuids) <= ROOTS_MAX or uuids != sorted(set(uuids)):
        raise FormatError(path, f"has {len(uuids)} roots", expected=f"1 to {ROOTS_MAX}, ascending")
    for root in manifest.roots:
        if not _NAME.fullmatch(root.uuid) or not is_weight(root.weight) or "\0" in root.path:
            raise FormatError(path, f"has the root {shown(root.uuid)}", expected="a sound one")


def _check_shards(manifest: Manifest, path: str) -> None:
    count = len(manifest.roots)
    files = set()
    for shard in manifest.shards:
        if not _FILE.fullmatch(shard.file) or shard.file in files:
            raise FormatError(
                path,
                f"names the shard {shown(shard.file)}",
                expected="a plain file name that ends in .safetensors, once",
            )
        files.add(shard.file)
        sound = (
            8 <= shard.start <= shard.nbytes
            and is_digest(shard.digest)
            and 1 <= len(set(shard.roots)) == len(shard.roots)
            and all(0 <= at < count for at in shard.roots)
        )
        if not sound:
            raise FormatError(path, f"says of the shard {shown(shard.file)} what cannot be")


def hints(manifest: Manifest) -> Mapping[str, str]:
    """Return where each root was last, by UUID."""
    return {root.uuid: root.path for root in manifest.roots}
