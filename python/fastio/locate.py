"""What a source is: a store, or what people hand to a loader besides."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from fastio.formats import huggingface
from fastio.located import Located
from fastio.paths import Source, paths_of
from fastio.shortage import memory_named
from fastio.store import IDENTITY


def locate(source: Source, names: Collection[str] | None = None) -> Located:
    """Say which tensors a source has, and where they lie.

    Parameters
    ----------
    source : path, or collection of paths
        A root of a store; or what `fastio.formats.huggingface.locate` takes.
    names : collection of str, optional
        What will be asked for.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, FormatError, ReadError, ReplicaError
        As `fastio.load` does.
    TypeError, ValueError
        If the source is none of these.
    """
    paths = paths_of(source)
    if isinstance(paths, str) and os.path.lexists(os.path.join(paths, IDENTITY)):
        from fastio.store import reading  # takes longer to import than most need it

        return reading.newest([Path(paths)], names)
    subject = paths if isinstance(paths, str) else paths[0]
    with memory_named(subject, lambda: "what its headers say"):
        return Located(huggingface.locate(paths, names), {})
