"""Verification: the damage in files, or in the replicas of a store, after all bytes were read."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from fastio.display import values
from fastio.display.short_log import brief
from fastio.report.events import Event, emit

_log = logging.getLogger("fastio")
_SHOWN_MAX = 10


@dataclass(frozen=True)
class Verification:
    """The result of `fastio.verify` or `Store.verify`.

    ``print(verification)`` shows all parts; ``repr(verification)`` is one short line.

    Attributes
    ----------
    source : str
    files : int
        Number of files; each replica of a shard is one.
    nbytes : int
        Bytes that were read and compared.
    seconds : float
        Wall-clock time.
    damaged : tuple of Event
        One for each file that is damaged, missing or unreadable: cause, and of damaged chunks the
        ranges and the tensors. Its `remedy` says whether it was repaired.
    repaired : tuple of Event
        One for each file that was repaired, and was sound in a second read.
    unverified : tuple of str
        Files without checksums, of which the header was checked. They do not change `ok`.
    roots : dict of str to str
        Of a store: by path of each root ``whole``, ``mended``, or the problem.
    strays : int
        Of a store: files on all roots that no generation names. They are not read; `Store.gc`
        removes them.
    stray_bytes : int
        Bytes of these.
    notes : tuple of str
        Facts beside damage: reads that succeeded in a second try, a read-only root.

    Examples
    --------
    >>> found = fastio.verify("model.safetensors")
    >>> found.ok, found.files, found.damaged
    (True, 1, ())
    """

    source: str
    files: int
    nbytes: int
    seconds: float
    damaged: tuple[Event, ...] = ()
    repaired: tuple[Event, ...] = ()
    unverified: tuple[str, ...] = ()
    roots: Mapping[str, str] = field(default_factory=dict)
    strays: int = 0
    stray_bytes: int = 0
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged, or all that was is mended."""
        mended = {event.path for event in self.repaired}
        return all(event.path in mended for event in self.damaged)

    @property
    def gb_per_s(self) -> float:
        """Bytes read a second, in units of 10^9."""
        return self.nbytes / self.seconds / 1e9 if self.seconds > 0 else 0.0

    def __str__(self) -> str:
        took = f"{values.duration(self.seconds)}, {values.rate(self.gb_per_s * 1e9)}"
        lines = [f"{self.source}: {self._result()}", f"{self._amount()} in {took}"]
        lines += [f"root {path}: {state}" for path, state in self.roots.items()]
        lines += values.listed([f"damaged: {event}" for event in self.damaged], _SHOWN_MAX)
        lines += values.listed([f"unverified: {path}" for path in self.unverified], _SHOWN_MAX)
        if self.strays:
            strays = f"{values.counted(self.strays, 'file')}, {values.size(self.stray_bytes)}"
            lines.append(f"no generation names: {strays}; they were not read")
        return "\n".join([*lines, *values.listed(self.notes, _SHOWN_MAX)])

    @values.one_line
    def __repr__(self) -> str:
        return f"<fastio.Verification of {self.source}: {self._result()}, {self._amount()}>"

    def _repr_html_(self) -> str:
        from fastio.display import html  # for notebooks alone

        return html.lines(str(self).splitlines())

    def _amount(self) -> str:
        return f"{values.counted(self.files, 'file')}, {values.size(self.nbytes)}"

    def _result(self) -> str:
        parts = []
        if self.damaged:
            parts.append(f"{values.counted(len(self.damaged), 'file')} damaged")
        if self.repaired:
            parts.append(f"{len(self.repaired)} mended")
        if self.unverified:
            parts.append(f"{len(self.unverified)} without checksums")
        return ", ".join(["ok" if self.ok else "NOT OK", *parts])


def tell(found: Verification) -> None:
    """Log what a verification has found, and tell whoever listens of each damaged file.

    Raises
    ------
    Nothing.
    """
    with brief(f"verifying {found.source}"):
        for event in found.damaged:
            emit(event)
    for event in found.repaired:  # the log has them: it is what became of the damage
        emit(event, logged=False)
    _log.info("verified %s", str(found).replace("\n", "; "))
