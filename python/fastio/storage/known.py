"""The kinds of storage, by address: a local folder, and whatever a scheme is made known for."""

from __future__ import annotations

from pathlib import Path

from fastio.storage import folder_making
from fastio.storage.kind import Kind

_FOLDER: Kind = folder_making


def kind_of(path: Path) -> Kind:
    """Return the kind of storage that an address is of."""
    return _FOLDER
