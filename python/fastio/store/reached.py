"""The records and manifests of the roots that can be reached."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from pathlib import PurePath

from fastio.errors import FastioError, FormatError, ReplicaError
from fastio.storage import answering
from fastio.store.documents import Record
from fastio.store.history import Standing, standings
from fastio.store.layout import MANIFESTS, manifest_name
from fastio.store.manifest import EncodedManifest, hints
from fastio.store.root import Root


class ReachableRoots:
    """Roots of one store, and those that cannot be reached.

    Attributes
    ----------
    paths : list of pathlib.PurePath
        Those that were given.
    roots : dict of str to Root
        Those that can be reached, by UUID.
    missing : dict of str to str
        Paths of those that cannot, each with the reason.
    store : str
        UUID.
    """

    paths: list[PurePath]
    roots: dict[str, Root]
    missing: dict[str, str]
    store: str

    def records(self) -> Mapping[str, Mapping[int, Record]]:
        """Return the sound records of each root; one that cannot be read is missing from now on.

        Raises
        ------
        Nothing.
        """
        found = {}
        asked = [
            (uuid, root, root.answering.begin(root.records))
            for uuid, root in list(self.roots.items())
        ]
        answering.wait_for_all([call for *_, call in asked])
        for uuid, root, call in asked:
            try:
                found[uuid] = call.result()
            except (FastioError, OSError) as error:
                self.missing[str(root.path)] = str(error)
                self.roots.pop(uuid, None)
        return found

    def standings(self) -> list[Standing]:
        """Return how each generation stands on the roots that can be asked, the newest first.

        Raises
        ------
        Nothing.
        """
        records = self.records()
        return standings(records, {uuid: root.damaged for uuid, root in self.roots.items()})

    def manifest(self, record: Record) -> EncodedManifest:
        """Return the manifest of a generation, from any root that has it.

        Raises
        ------
        ReplicaError
            If none has.
        FormatError
            If it is of another store.
        """
        reasons: dict[str, str] = {}
        for root in list(self.roots.values()):
            try:
                encoded = root.manifest(record.manifest)
            except FileNotFoundError:
                reasons[str(root.path)] = "has no such file"
            except (FastioError, OSError) as error:
                reasons[str(root.path)] = str(error)
                root.note(str(error))
            else:
                if encoded.manifest.store != self.store:
                    path = root.path / MANIFESTS / manifest_name(record.manifest)
                    raise FormatError(path, "is of another store", expected=self.store)
                return encoded
        raise ReplicaError(
            self.name,
            f"the manifest of generation {record.generation} cannot be read",
            {**self.missing, **reasons},
        )

    @property
    def name(self) -> str:
        """The name of the store in messages."""
        return str(self.paths[0])

    def newest(self) -> EncodedManifest:
        """Return the manifest of the newest generation that has one.

        Raises
        ------
        ReplicaError
            If there is none.
        """
        for standing in self.standings():
            with contextlib.suppress(FastioError, FileNotFoundError):
                return self.manifest(standing.record)
        raise ReplicaError(self.name, "no generation has a sound manifest", self.reasons())

    def places_before(self, uuids: Collection[str]) -> dict[str, str]:
        """Return where roots were last that the newest generation has no more, as far as known.

        Raises
        ------
        Nothing.
        """
        found: dict[str, str] = {}
        for standing in self.standings() if uuids else ():
            with contextlib.suppress(FastioError):
                said = hints(self.manifest(standing.record).manifest)
                found = {**{uuid: said[uuid] for uuid in uuids if uuid in said}, **found}
            if found.keys() >= set(uuids):
                break
        return found

    def reasons(self) -> dict[str, str]:
        """Return what is wrong with each root, by its path."""
        damaged = {
            str(root.path): "; ".join(root.problems) or "has none" for root in self.roots.values()
        }
        return {**self.missing, **damaged}
