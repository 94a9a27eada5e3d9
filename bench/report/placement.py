"""The memory of loaded tensors, in words: the page cache's own pages, or fresh memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.contenders.registry import LOADERS

MAPS = "maps the page cache"
COPIES = "copies into fresh memory"


def is_mapped(name: str, found: Mapping[str, Any]) -> bool:
    """Whether the tensors of a measured loader are the page cache's own pages.

    Some rivals always map the file, as their `place` says. fastio decides at each load, and its
    report of the measured load has the decision.

    Parameters
    ----------
    name : str
        The loader's name.
    found : mapping
        Its entry in the result file.
    """
    always = name in LOADERS and LOADERS[name].place == "mapped"
    return always or found.get("notes", {}).get("engine") == "mmap"


def words(name: str, found: Mapping[str, Any]) -> str:
    """Return in words where a loader placed its tensors. Parameters are those of `is_mapped`."""
    return MAPS if is_mapped(name, found) else COPIES
