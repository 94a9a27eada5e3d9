"""The original of a copied store: an adopted copy has other UUIDs than its original.

Only the small file that says who a root is was written anew. Records and manifests from before have
the UUIDs of the original, and are read as if they had the new ones. Each new UUID is made of the
old one and of the new store's, so that every root of the copy knows those of all others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import replace

import msgspec

from fastio.store.documents import Record, RootIdentity
from fastio.store.manifest import EncodedManifest, Manifest, decode


def adopted(root: str, store: str) -> str:
    """Return the UUID that a root has in a store that was made of a copy.

    Parameters
    ----------
    root : str
        Its UUID in the store that it is a copy of.
    store : str
        UUID of the new one.

    Raises
    ------
    Nothing.
    """
    return hashlib.sha256(f"{store}:{root}".encode()).hexdigest()[:32]


def foreign(other: RootIdentity, own: Collection[RootIdentity]) -> str:
    """Return why a root is none of a store.

    Parameters
    ----------
    other : RootIdentity
        Who it is.
    own : collection of RootIdentity
        Roots of the store.

    Raises
    ------
    Nothing.
    """
    problem = f"is of another store, {other.store}"
    if not any(each.store in other.copied_from or other.store in each.copied_from for each in own):
        return problem
    return (
        f"{problem}: an adoption of this copy was cut off, perhaps; "
        "fastio.Store.adopt with all roots of the copy goes on with it"
    )


def own_record(identity: RootIdentity, record: Record) -> Record:
    """Return a record as the store has it now: another one's stays as it is.

    Raises
    ------
    Nothing.
    """
    since = _since(identity, record.store)
    if not since:
        return record
    roots = sorted(_renamed(root, since) for root in record.roots)
    return replace(record, store=identity.store, roots=tuple(roots))


def written_for(encoded: EncodedManifest) -> str:
    """Return the UUID of the store that a manifest was written for, as `own_manifest` has it not.

    Raises
    ------
    FormatError
    """
    return decode(encoded.data, encoded.digest, encoded.digest).manifest.store


def own_manifest(identity: RootIdentity, encoded: EncodedManifest) -> EncodedManifest:
    """Return a manifest as the store has it now: another one's stays as it is.

    Raises
    ------
    Nothing.
    """
    manifest = encoded.manifest
    since = _since(identity, manifest.store)
    if not since:
        return encoded
    settings = manifest.settings
    places = tuple(
        (pattern, tuple(_renamed(root, since) for root in roots))
        for pattern, roots in settings.places
    )
    renamed: Manifest = msgspec.structs.replace(
        manifest,
        store=identity.store,
        roots=tuple(
            msgspec.structs.replace(root, uuid=_renamed(root.uuid, since))
            for root in manifest.roots
        ),
        settings=msgspec.structs.replace(settings, places=places),
    )
    return EncodedManifest(renamed, encoded.digest, encoded.data)


def _since(identity: RootIdentity, store: str) -> tuple[str, ...]:
    """The stores that this one has become since it was `store`, the last one last."""
    if store not in identity.copied_from:
        return ()
    return (*identity.copied_from[identity.copied_from.index(store) + 1 :], identity.store)


def _renamed(root: str, since: tuple[str, ...]) -> str:
    for store in since:
        root = adopted(root, store)
    return root
