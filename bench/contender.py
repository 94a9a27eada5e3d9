"""What a contender is: one way to get the tensors of a file, and what is known of it beforehand.

Nothing here reads a file; who takes part stands in `contenders`.
"""

from __future__ import annotations

import importlib.util
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Gives = Literal["tensors", "rows", "names"]
Place = Literal["fresh", "mapped", "given", "nowhere"]


@dataclass
class Attempt:
    """One go of a contender: what it is given, and what it says of it.

    Attributes
    ----------
    path : str
        The file.
    given : mapping
        What the contender's `prepare` made before the clock started.
    report : object
        What fastio reports, where fastio is at work.
    figures : dict of str to float
        What the contender timed or counted itself; each becomes a series in the result file.
    """

    path: str
    given: Mapping[str, Any] = field(default_factory=dict)
    report: Any = None
    figures: dict[str, float] = field(default_factory=dict)


class Answer(dict[str, Any]):
    """An answer that is not all tensors at once: empty, and digested only when asked to be."""

    @abstractmethod
    def digest(self) -> str:
        """Return the digest, outside of the clock."""


Load = Callable[[Attempt], Mapping[str, Any]]
Prepare = Callable[[str], Mapping[str, Any]]


@dataclass(frozen=True)
class Contender:
    """One way to get tensors out of a file.

    Attributes
    ----------
    name : str
        How JSON calls it.
    title : str
        How tables and pictures call it.
    modules : tuple of str
        What is imported before the clock starts.
    load : callable
        From an attempt to tensors by name, or to an `Answer`.
    gives : {"tensors", "rows", "names"}
        What is expected of it: every tensor, `answers.middle_rows` of each, or names alone.
    place : {"fresh", "mapped", "given", "nowhere"}
        Where the tensors lie at the end: in memory of their own; in the page cache, so that a cold
        load is not done before their pages have been read once; in memory that `prepare` made;
        or nowhere, since each was dropped before the next.
    prepare : callable, optional
        From a path to what the load is given, before the clock starts and the cache is seen to.
    """

    name: str
    title: str
    modules: tuple[str, ...]
    load: Load
    gives: Gives = "tensors"
    place: Place = "fresh"
    prepare: Prepare | None = None

    def missing(self) -> str | None:
        """Return why it cannot run here, or None if it can."""
        absent = [module for module in self.modules if not is_installed(module)]
        return f"{', '.join(absent)} not installed" if absent else None


def is_installed(module: str) -> bool:
    """Whether a module can be imported; a folder of that name without code is not one."""
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return False
    return found is not None and found.origin is not None
