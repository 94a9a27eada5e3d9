"""Files that cannot be verified: refused or warned of, before a tensor is read."""

from __future__ import annotations

import functools
from typing import Literal

from fastio.catalog import Shard
from fastio.catalog.unsound import UnsoundTable
from fastio.errors import FormatError
from fastio.reading.located import LocatedSource
from fastio.report.events import Event, emit

Verify = bool | Literal["require"]
"""Whether checksums are compared; "require" refuses files without."""

_TOLD_MAX = 2**12  # files that a process remembers
_REMEDY = "loaded unverified; fastio.seal gives it checksums of its own"
_REMEDY_OF_DAMAGE = (
    "loaded unverified, as verify=False asks; if its bytes are surely good, fastio.seal with "
    "force=True gives it new checksums"
)


def check_verify(verify: object) -> None:
    """Refuse what `verify=` cannot be.

    Raises
    ------
    ValueError
    """
    if verify not in (True, False, "require"):
        raise ValueError(f"verify={verify!r}: expected True, False or 'require'")


def sound(located: LocatedSource, verify: object) -> LocatedSource:
    """Return a source, unless it may be damaged and is to be verified.

    It comes before any look at the names, which may be damaged as well.

    Raises
    ------
    FormatError
        If a file has an unsound table. Names the file.
    """
    for shard in located.shards if verify else ():
        if shard.unsound is not None and not shard.unsound.is_copied:
            raise shard.unsound.error(shard.path)
    return located


def check(located: LocatedSource, wanted: LocatedSource, verify: object) -> None:
    """Refuse a source whose checksums do not allow what was asked for.

    Parameters
    ----------
    located : LocatedSource
        The source; see `sound`.
    wanted : LocatedSource
        The part of the source that will be read. Its files whose checksums are of no use are warned
        of.
    verify : bool or "require"
        As `fastio.load` takes it.

    Raises
    ------
    FormatError
        Names the file.
    """
    sound(located, verify)
    for shard in wanted.shards:
        if verify == "require" and not shard.files.is_sealed:
            raise _refusal(shard)
        if shard.unsound is not None:
            tell_once(shard.path, shard.unsound)


def _refusal(shard: Shard) -> FormatError:
    found = "carries no checksums" if shard.unsound is None else shard.unsound.problem
    return FormatError(
        shard.path,
        f"{found}, and verify='require' was asked for",
        expected="a sealed file (fastio.seal makes one)",
    )


@functools.lru_cache(_TOLD_MAX)
def tell_once(path: str, unsound: UnsoundTable) -> None:
    """Warn of a file that is loaded unverified; once in a process for each contents of a path.

    Raises
    ------
    Nothing.
    """
    remedy = _REMEDY if unsound.is_copied else _REMEDY_OF_DAMAGE
    emit(Event("fallback", path, unsound.problem, remedy))
