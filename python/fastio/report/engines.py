"""The engines of this host: which of them work, and why."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

import fastio._native as _native
from fastio.display import values


class EngineStatus(msgspec.Struct, frozen=True):
    """Whether one engine works here, found by trying it.

    Attributes
    ----------
    available : bool
    reason : str
        The result of the trial.
    features : tuple of str
        Abilities beyond plain reads; a missing one has its reason.
    """

    available: bool
    reason: str
    features: tuple[str, ...] = ()

    @values.one_line
    def __repr__(self) -> str:
        works = "available" if self.available else "NOT available"
        return f"<fastio.EngineStatus: {works}, {self.reason}>"


class EngineReport(msgspec.Struct, frozen=True):
    """The results of probing this host.

    Attributes
    ----------
    engines : mapping of str to EngineStatus
    chosen, reason : str
        The engine of `Options(engine="auto")`, and why.
    checksum : str
        The variant of the code that this processor runs.
    kernel_features, kernel_operations : tuple of str
        The offers of the kernel's io_uring, from `fastio.uring.Ring`. The loader needs few of them.
    kernel_reason : str
        The reason if these are empty.
    cuda : str
        The CUDA driver for loads to devices, or why there is none.
    """

    engines: Mapping[str, EngineStatus]
    chosen: str
    reason: str
    checksum: str
    kernel_features: tuple[str, ...] = ()
    kernel_operations: tuple[str, ...] = ()
    kernel_reason: str = ""
    cuda: str = ""

    @values.one_line
    def __repr__(self) -> str:
        return f"<fastio.EngineReport: {self.chosen}, {self.reason}>"

    def __str__(self) -> str:
        lines = [f"engine: {self.chosen} ({self.reason})"]
        for name, status in self.engines.items():
            lines.append(f"  {name}: {'yes' if status.available else 'NO'}, {status.reason}")
            lines.extend(f"    {feature}" for feature in status.features)
        if self.kernel_reason:
            lines.append(f"io_uring of the kernel: not known, {self.kernel_reason}")
        else:
            lines.append(f"io_uring of the kernel: {', '.join(self.kernel_features)}")
            # They are in the order in which Linux got them: the last one says how new it is.
            last = self.kernel_operations[-1:]
            lines.append(f"  {len(self.kernel_operations)} operations, up to {' '.join(last)}")
        lines.append(f"devices: {self.cuda}")
        lines.append(f"checksum: XXH3-64, {self.checksum} code")
        return "\n".join(lines)


def engine_report() -> EngineReport:
    """Say which engines work on this host, and why.

    An engine that does not work raises nothing; it is part of the result.

    Returns
    -------
    EngineReport
        Its ``str()`` is a readable text.

    Examples
    --------
    >>> fastio.engine_report().engines["pread"].available
    True
    """
    engines = {
        name: EngineStatus(status["available"], status["reason"], tuple(status["features"]))
        for name, status in _native.engine_statuses().items()
    }
    uring = engines["uring"]
    if uring.available:
        chosen, reason = "uring", uring.reason
    else:
        chosen, reason = "pread", f"io_uring is not available: {uring.reason}"
    return EngineReport(
        engines,
        chosen,
        reason,
        _native.checksum_variant(),
        *_kernel_offers(),
        _native.find_driver()["reason"],
    )


def _kernel_offers() -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """Features, operations, and the reason where there are none."""
    try:
        from fastio.uring import Ring  # takes longer to import than most users need it

        with Ring(1) as ring:
            return ring.features, ring.operations, ""
    except (ImportError, OSError) as error:
        return (), (), str(error)
