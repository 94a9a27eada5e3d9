"""What a source is: a store, or what people hand to a loader besides."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from fastio.anchored import anchored
from fastio.formats import huggingface
from fastio.located import Located
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
    source = _anchored_if_several(source)
    if isinstance(source, (str, os.PathLike)):
        path = Path(os.fsdecode(source))
        if os.path.lexists(path / IDENTITY):
            from fastio.store import reading  # takes longer to import than most need it

            return reading.newest([path], names)
    return Located(huggingface.locate(source, names), {})


def anchored_source(source: Source) -> Source:
    """Return a source that stays the same when the working directory changes.

    Raises
    ------
    Nothing; what is no source is returned as it is.
    """
    if isinstance(source, (list, tuple)):
        return [_anchored_item(item) for item in source]
    return _anchored_item(source)  # type: ignore[no-any-return]


def _anchored_item(item: Any) -> Any:
    return anchored(os.fsdecode(item)) if isinstance(item, (str, os.PathLike)) else item


def _anchored_if_several(source: Any) -> Any:
    """Anchor what is opened in more than one step: another thread may change the working directory
    in between. A single file keeps the name that the caller gave it, for messages.
    """
    if isinstance(source, (list, tuple)):
        return anchored_source(source) if len(source) > 1 else source
    if not isinstance(source, (str, os.PathLike)) or os.path.isabs(source):
        return source
    is_several = os.path.isdir(source) or os.fsdecode(source).endswith(".json")
    return anchored_source(source) if is_several else source
