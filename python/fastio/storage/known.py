"""The schemes of URLs that a root may have, and the module of each: beside paths of folders."""

from __future__ import annotations

from functools import cache
from pathlib import Path, PurePath

from fastio.arguments.anchored import anchored
from fastio.storage.address import Url

GROUP = "fastio.storages"
"""The group of entry points by which distributions add kinds of storage: fastio's own, and others.

The name of an entry point is a scheme, and its value a module that is a `Kind`.
Source: packaging.python.org, "Entry points specification".
"""


@cache
def modules() -> dict[str, str]:
    """Return by scheme the name of a module that is a `Kind`; found at the first URL.

    It is imported when a root is first opened there: the library of an object store may take long.

    Raises
    ------
    Nothing.
    """
    try:
        from importlib.metadata import entry_points  # it takes long, and paths of folders need none
    except ImportError:  # after chroot: there are no modules of kinds to import, either
        return {}
    return {each.name: each.value for each in entry_points(group=GROUP)}


def is_url(text: str) -> bool:
    """Return whether a text is a URL of a known scheme."""
    scheme, separator, _ = text.partition("://")
    return bool(separator) and scheme in modules()


def address_of(text: str) -> PurePath:
    """Return the address that a text means: a known URL, or else a path, which is anchored."""
    return Url(text) if is_url(text) else Path(anchored(text))
