"""The kind of storage that is at an address: a folder at a path, or what its scheme stands for."""

from __future__ import annotations

import importlib
from pathlib import PurePath
from typing import cast

from fastio.errors import UsageError
from fastio.storage import folder_kind
from fastio.storage.address import Url
from fastio.storage.kind import Kind
from fastio.storage.known import modules

_FOLDERS: Kind = folder_kind


def kind_of(address: PurePath) -> Kind:
    """Return the kind of storage that is at an address.

    Raises
    ------
    UsageError
        If its module cannot be imported, as without the library that it needs.
    """
    if not isinstance(address, Url):
        return _FOLDERS
    module = modules()[address.scheme]
    try:
        return cast("Kind", importlib.import_module(module))
    except ImportError as error:
        raise UsageError(
            f"{address.scheme}:// needs the module {module}, which cannot be imported: {error}"
        ) from error
