"""Contenders: each is one way to load a file or to save one.

Nothing here touches a file. `registry` names all contenders.
"""

from __future__ import annotations

import importlib.util
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parent.parent
# A second safetensors beside the installed one. `make bench` installs it there.
RC_VERSION = "0.9.0rc1"
RC_SITE = f"build/rivals/safetensors-{RC_VERSION}"

Gives = Literal["tensors", "rows", "names"]
Place = Literal["fresh", "mapped", "given", "nowhere"]


@dataclass
class Attempt:
    """One call of a contender: its input, and the figures that it reports.

    Attributes
    ----------
    path : str
        The file that is loaded, or that is to be written.
    given : mapping
        The result of the contender's `prepare`, made before the clock started.
    report : object
        fastio's report, if fastio was called and is done when the clock stops.
    figures : dict of str to float
        Figures of the contender itself. Each becomes a series in the result file.
    """

    path: str
    given: Mapping[str, Any] = field(default_factory=dict)
    report: Any = None
    figures: dict[str, float] = field(default_factory=dict)


class Answer(dict[str, Any]):
    """An answer that does not hold all tensors at once: an empty mapping with a digest."""

    @abstractmethod
    def digest(self) -> str:
        """Return the digest. It is asked for outside of the clock."""


Load = Callable[[Attempt], Mapping[str, Any]]
Save = Callable[[Attempt], Mapping[str, Any]]
Prepare = Callable[[str], Mapping[str, Any]]


@dataclass(frozen=True)
class Contender:
    """A `Loader` or a `Saver`.

    Attributes
    ----------
    name : str
        In JSON.
    title : str
        In tables and pictures.
    modules : tuple of str
        Imported before the clock starts.
    site : str
        A folder below the project's root that is first on the module path, for a second version
        of a library. Empty: none.
    """

    name: str
    title: str
    modules: tuple[str, ...]
    site: str = field(default="", kw_only=True)

    def missing(self) -> str | None:
        """Return why it cannot run here, or None if it can."""
        if self.site and not (ROOT / self.site).is_dir():
            return f"{Path(self.site).name} not installed"
        absent = [module for module in self.modules if not is_installed(module)]
        return f"{', '.join(absent)} not installed" if absent else None


@dataclass(frozen=True)
class Loader(Contender):
    """One way to get tensors out of a file.

    Attributes
    ----------
    load : callable
        Takes an attempt; returns tensors by name, or an `Answer`.
    gives : {"tensors", "rows", "names"}
        The expected answer: every tensor, `answers.middle_rows` of each, or names alone.
    place : {"fresh", "mapped", "given", "nowhere"}
        The memory of the tensors at the end. "fresh" is memory of their own, "given" that of
        `prepare`. "mapped" is the page cache: a cold load then ends when every page has been read
        once. "nowhere": each tensor was dropped before the next.
    prepare : callable, optional
        Takes a path; returns `Attempt.given`. Called before the cache is prepared.
    account : callable, optional
        Adds figures to an attempt after the clock has stopped, while its tensors exist.
    """

    load: Load
    gives: Gives = "tensors"
    place: Place = "fresh"
    prepare: Prepare | None = None
    account: Callable[[Attempt], None] | None = None


@dataclass(frozen=True)
class Saver(Contender):
    """One way to get tensors into a file.

    Attributes
    ----------
    save : callable
        Takes an attempt; returns an `Answer` that reads the file back, or tensors by name.
    prepare : callable
        Takes the path of a model; returns its tensors in memory for the attempt.
    returns_early : bool
        The clock stops before the bytes are written, so the table has no speed.
    """

    save: Save
    prepare: Prepare
    returns_early: bool = False


def is_installed(module: str) -> bool:
    """Whether a module can be imported. A folder without code is no module."""
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return False
    return found is not None and found.origin is not None
