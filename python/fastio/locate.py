"""What a source is: a store, or what people hand to a loader besides."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from fastio.formats import huggingface
from fastio.located import Located
from fastio.shortage import memory_named
from fastio.store import IDENTITY

Source = str | os.PathLike[str] | list[Any] | tuple[Any, ...]


def locate(source: Source, names: Collection[str] | None = None) -> Located:
    """Say which tensors a source has, and where they lie.

    Parameters
    ----------
    source : path, or list or tuple of paths
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
    if isinstance(source, (str, os.PathLike)):
        path = Path(os.fsdecode(source))
        if os.path.lexists(path / IDENTITY):
            from fastio.store import reading  # takes longer to import than most need it

            return reading.newest([path], names)
    subject = source[0] if isinstance(source, (list, tuple)) and source else source
    with memory_named(f"{subject}", lambda: "what its headers say"):
        return Located(huggingface.locate(source, names), {})
