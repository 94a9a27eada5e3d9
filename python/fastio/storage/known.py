"""The kinds of storage that there are, each by the scheme of its addresses."""

from __future__ import annotations

import importlib
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, cast

from fastio.arguments.anchored import anchored
from fastio.storage.address import Url

if TYPE_CHECKING:
    from fastio.storage.kind import Kind

MODULES = {"": "fastio.storage.folder_kind"}
"""By the scheme of its URLs, the module of each kind: it is a `Kind`. A path has no scheme.

A module is imported when it is first used: the library of an object store may take long.
"""


def is_url(text: str) -> bool:
    """Return whether a text is the URL of a kind of storage that is known."""
    scheme, separator, _ = text.partition("://")
    return bool(separator and scheme) and scheme in MODULES


def address_of(text: str) -> PurePath:
    """Return the address that a text means: a known URL, or else a path, which is anchored."""
    return Url(text) if is_url(text) else Path(anchored(text))


def kind_of(address: PurePath) -> Kind:
    """Return the kind of storage that is at an address."""
    scheme = address.scheme if isinstance(address, Url) else ""
    return cast("Kind", importlib.import_module(MODULES[scheme]))
