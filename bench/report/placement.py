"""The place of loaded tensors, in words: the page cache's own pages, or fresh memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.contenders.registry import LOADERS

MAPS = "maps the page cache"
COPIES = "copies into fresh memory"


def is_mapped(name: str, found: Mapping[str, Any]) -> bool:
    """Whether the tensors of a measured loader are the page cache's own pages.

    Some rivals always map the file, and their `place` says so. fastio decides at each load, and its
    report of the measured load says what it did.

    Parameters
    ----------
    name : str
        The loader's name.
    found : mapping
        What the result file has of it.
    """
    always = name in LOADERS and LOADERS[name].place == "mapped"
    return always or found.get("notes", {}).get("engine") == "mmap"


def words(name: str, found: Mapping[str, Any]) -> str:
    """Return in words what a measured loader did; the parameters are those of `is_mapped`."""
    return MAPS if is_mapped(name, found) else COPIES
