"""Finds out whether a source is a store, a file, a list of files or a folder."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection
from functools import partial

import msgspec

from fastio.arguments.anchored import anchored
from fastio.arguments.paths import Source, paths_of
from fastio.formats import huggingface
from fastio.options import Options, default_options
from fastio.reading.located import LocatedSource
from fastio.storage.known import address_of, is_url
from fastio.store import IDENTITY


def locate(
    source: Source, names: Collection[str] | None = None, options: Options | None = None
) -> LocatedSource:
    """Say which tensors a source has, and where they lie.

    Parameters
    ----------
    source : path, or collection of paths
        A root of a store; or what `fastio.formats.huggingface.locate` takes.
    names : collection of str, optional
        What will be asked for.
    options : Options, optional
        Says how long a root of a store may take to answer.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, FormatError, ReadError, ReplicaError
        As `fastio.load` does.
    TypeError, ValueError
        If the source is none of these.
    """
    paths = anchored_if_several(paths_of(source))
    if isinstance(paths, str) and is_root(paths):
        from fastio.store import reading  # takes longer to import than most need it

        timeout_s = (options or default_options()).root_timeout_s
        return reading.newest([address_of(paths)], timeout_s, names)
    try:
        return LocatedSource(huggingface.locate(paths, names), {})
    except IsADirectoryError as error:
        raise root_among(paths, error) from None


def locate_again(source: Source, options: Options) -> LocatedSource:
    """Locate all of a source for a reader, which a pickle may locate again elsewhere.

    Parameters
    ----------
    source : path, or collection of paths
        As `locate` takes it. A relative path means what it means now.
    options : Options

    Raises
    ------
    As `locate` does.
    """
    paths = paths_of(source)
    anchored = anchored_paths(paths)  # before it is opened: the working directory may change
    located = locate(paths, None, options)
    if located.again is not None:
        return located
    return msgspec.structs.replace(located, again=partial(locate_again, anchored))


def is_root(path: str | list[str]) -> bool:
    """Return whether a path is a root of a store.

    Raises
    ------
    Nothing.
    """
    return isinstance(path, str) and (is_url(path) or os.path.lexists(os.path.join(path, IDENTITY)))


def root_among(paths: str | list[str], error: IsADirectoryError) -> IsADirectoryError:
    """Return the error of a folder where files are expected: of a root of a store, with what to do.

    Raises
    ------
    Nothing.
    """
    path = str(error.filename)
    if isinstance(paths, str) or not is_root(path):
        return error
    problem = (
        "It is a root of a store, where a file is expected: fastio.open, load and verify take one "
        "root by its path alone, and fastio.Store.open takes several"
    )
    return IsADirectoryError(errno.EISDIR, problem, path)


def anchored_paths(paths: str | list[str]) -> str | list[str]:
    """Return paths that stay the same when the working directory changes.

    Raises
    ------
    Nothing.
    """
    return anchored(paths) if isinstance(paths, str) else [anchored(path) for path in paths]


def anchored_if_several(paths: str | list[str]) -> str | list[str]:
    """Anchor what is opened in more than one step: another thread may change the working directory
    in between. A single file keeps the name that the caller gave it, for messages, and so does what
    is not there.

    Raises
    ------
    Nothing.
    """
    if isinstance(paths, str):
        is_several = os.path.isdir(paths) or paths.endswith(".json")
        return anchored(paths) if is_several else paths
    if len(paths) == 1:
        return paths
    return [anchored(path) if os.path.lexists(path) else path for path in paths]
