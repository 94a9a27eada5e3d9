"""Detects that roots given together have diverged: those of a store and of its copy, both saved to.

A copy has the UUIDs of its original. Once the copy was saved to by itself, its manifests name its
own roots. Then two roots are each at the path of their own newest manifest, and one of these
manifests names another path for the other root, where a root of that UUID is. Neither history is
newer, so no call may silently choose one.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping, Sequence

from fastio.errors import FastioError, FormatError
from fastio.storage import answering
from fastio.storage.known import address_of
from fastio.store.documents import Record
from fastio.store.manifest import hints
from fastio.store.root import Root


def apart(roots: Sequence[Root], timeout_s: float) -> tuple[Root, Root] | None:
    """Return two roots that have gone on apart, if there are such.

    Parameters
    ----------
    roots : sequence of Root
        Of one store; several may have one UUID.
    timeout_s : float
        How long another root that is looked for may take to answer.

    Raises
    ------
    Nothing: a root that cannot be read says nothing.
    """
    if len(roots) < 2:
        return None
    newest = _newest_records(roots)
    if len({record.manifest for _, record in newest}) < 2:
        return None
    settled = [
        (root, said)
        for root, record in newest
        if root.uuid in (said := _places(root, record)) and _is_at(root, said[root.uuid])
    ]
    for (one, said), (other, _) in itertools.permutations(settled, 2):
        elsewhere = said.get(other.uuid)
        if elsewhere is None or _is_at(other, elsewhere):
            continue
        if one.uuid == other.uuid or _is_like(elsewhere, other, timeout_s):
            return one, other
    return None


def require_one_history(roots: Sequence[Root], timeout_s: float) -> None:
    """Refuse roots that have gone on apart.

    Raises
    ------
    FormatError
    """
    both = apart(roots, timeout_s)
    if both is not None:
        raise FormatError(
            both[0].path,
            f"{both[1].path} belongs to a copy of this store, or this root does, and both were "
            "saved to since",
            expected="roots of one of them; fastio.Store.adopt makes a copy a store of its own",
        )


def _newest_records(roots: Sequence[Root]) -> list[tuple[Root, Record]]:
    asked = [(root, root.answering.begin(root.records)) for root in roots]
    answering.wait_for_all([call for _, call in asked])
    found = []
    for root, call in asked:
        with contextlib.suppress(FastioError, OSError):
            records = call.result()
            if records:
                found.append((root, records[max(records)]))
    return found


def _places(root: Root, record: Record) -> Mapping[str, str]:
    """The paths of the roots, by the newest manifest of this one."""
    with contextlib.suppress(FastioError, OSError):
        return hints(root.manifest(record.manifest).manifest)
    return {}


def _is_at(root: Root, path: str) -> bool:
    with contextlib.suppress(FastioError):
        return root.storage.is_at(path)
    return True


def _is_like(path: str, root: Root, timeout_s: float) -> bool:
    """Whether another root of the same UUID is there."""
    with contextlib.suppress(FastioError, OSError):
        return Root.open(address_of(path), timeout_s).identity == root.identity
    return False
