"""The schemes of URLs that a root may have, and the module of each: beside paths of folders."""

from __future__ import annotations

from pathlib import Path, PurePath

from fastio.arguments.anchored import anchored
from fastio.storage.address import Url

MODULES: dict[str, str] = {}
"""By scheme, the name of a module that is a `Kind`.

It is imported when a root is first opened there: the library of an object store may take long.
"""


def is_url(text: str) -> bool:
    """Return whether a text is a URL of a known scheme."""
    scheme, separator, _ = text.partition("://")
    return bool(separator) and scheme in MODULES


def address_of(text: str) -> PurePath:
    """Return the address that a text means: a known URL, or else a path, which is anchored."""
    return Url(text) if is_url(text) else Path(anchored(text))
