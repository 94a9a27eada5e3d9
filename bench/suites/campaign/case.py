"""What is measured: for each case a model, the state of its file, and who takes part.

Which script measures a case, and what was promised of it, stands in `suites`.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Case:
    """One table of figures: a `LoadCase` or a `SaveCase`.

    Attributes
    ----------
    name, title : str
        For the command line, and for people.
    model : str
        One of `models.NAMES`.
    contenders : tuple of str
        Names in `contenders`.
    repeats : int
        Measurements in each process; their median is the process's one value. For what takes less
        than a millisecond.
    memory : bool
        The memory of the process is watched, and its figures of time are not to be used.
    over_time : bool
        The memory is kept as it went, beside its peak.
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
        The file is out of the page cache at the start of each measurement, else wholly in it.
    touched : bool
        Everybody's tensors are touched inside the clock, as they are when warm; for what is too
        small to be looked for in memory afterwards.
    """

    cold: bool = field(kw_only=True)
    touched: bool = False


@dataclass(frozen=True)
class GpuCase(LoadCase):
    """One table of figures of loads onto a GPU."""


@dataclass(frozen=True)
class SaveCase(Case):
    """One table of figures of saves."""


# Memory does not jitter as time does, and a watched round is slow.
MEMORY_ROUNDS = 3
