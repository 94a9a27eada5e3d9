"""Cases: each is a model, the state of its file, and the contenders that take part.

`cases.py` of each suite has its cases, and `targets.py` its targets.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Case:
    """One table of figures: a `LoadCase` or a `SaveCase`.

    Attributes
    ----------
    name, title : str
        On the command line; in tables.
    model : str
        One of `models.NAMES`.
    contenders : tuple of str
        Names in `contenders.registry` or `measure.limits`.
    repeats : int
        Measurements in each process, for times below a millisecond. Their median counts.
    memory : bool
        The memory of the process is sampled, and its times are left out.
    over_time : bool
        The samples are kept, beside their peak.
    """

    name: str
    title: str
    model: str
    contenders: tuple[str, ...]
    repeats: int = 1
    memory: bool = False
    over_time: bool = False


@dataclass(frozen=True)
class LoadCase(Case):
    """One table of figures of loads.

    Attributes
    ----------
    cold : bool
        The page cache has no page of the file at the start of a measurement, else every page.
    touched : bool
        All tensors are touched within the clock even when cold. For answers too small to be
        found in memory afterwards.
    """

    cold: bool = field(kw_only=True)
    touched: bool = False


@dataclass(frozen=True)
class GpuCase(LoadCase):
    """One table of figures of loads onto a GPU."""


@dataclass(frozen=True)
class SaveCase(Case):
    """One table of figures of saves."""


# Memory varies less than time, and sampled rounds are slow.
MEMORY_ROUNDS = 3
