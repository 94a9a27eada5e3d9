"""The kind of storage that is at an address: a folder at a path, or what its scheme stands for."""

from __future__ import annotations

import importlib
from pathlib import PurePath
from typing import cast

from fastio.storage import folder_kind
from fastio.storage.address import Url
from fastio.storage.kind import Kind
from fastio.storage.known import MODULES

_FOLDERS: Kind = folder_kind


def kind_of(address: PurePath) -> Kind:
    """Return the kind of storage that is at an address."""
    if not isinstance(address, Url):
        return _FOLDERS
    return cast("Kind", importlib.import_module(MODULES[address.scheme]))
