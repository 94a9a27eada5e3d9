"""What a contender is: one way to load a file or to save one, and what is known of it beforehand.

Nothing here touches a file; who takes part stands in `contenders`.
"""

from __future__ import annotations

import importlib.util
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parent.parent
# A second safetensors, beside the one that is installed: `make bench` puts it there.
RC_VERSION = "0.9.0rc1"
RC_SITE = f"build/rivals/safetensors-{RC_VERSION}"

Gives = Literal["tensors", "rows", "names"]
Place = Literal["fresh", "mapped", "given", "nowhere"]


@dataclass
class Attempt:
    """One go of a contender: what it is given, and what it says of it.

    Attributes
    ----------
    path : str
        The file that is loaded, or that is to be written.
    given : mapping
        What the contender's `prepare` made before the clock started.
    report : object
        What fastio reports, where fastio is at work and done when the clock stops.
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
Save = Callable[[Attempt], Mapping[str, Any]]
Prepare = Callable[[str], Mapping[str, Any]]


@dataclass(frozen=True)
class Contender:
    """Who takes part: a `Loader` or a `Saver`.

    Attributes
    ----------
    name : str
        How JSON calls it.
    title : str
        How tables and pictures call it.
    modules : tuple of str
        What is imported before the clock starts.
    site : str
        A folder below the project's root that modules are looked for in first: where a second
        version of a library is. Empty: none.
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
        From an attempt to tensors by name, or to an `Answer`.
    gives : {"tensors", "rows", "names"}
        What is expected of it: every tensor, `answers.middle_rows` of each, or names alone.
    place : {"fresh", "mapped", "given", "nowhere"}
        Where the tensors lie at the end: in memory of their own; in the page cache, so that a cold
        load is not done before their pages have been read once; in memory that `prepare` made;
        or nowhere, since each was dropped before the next.
    prepare : callable, optional
        From a path to what the load is given, before the clock starts and the cache is seen to.
    account : callable, optional
        Adds figures to an attempt once the clock has stopped, while its tensors are there.
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
        From an attempt to what was saved: an `Answer` that reads it back, or tensors by name.
    prepare : callable
        From the path of a model to its tensors in memory, which the attempt is given.
    returns_early : bool
        The clock stops before the bytes have gone anywhere, so there is no speed to be told.
    """

    save: Save
    prepare: Prepare
    returns_early: bool = False


def is_installed(module: str) -> bool:
    """Whether a module can be imported; a folder of that name without code is not one."""
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return False
    return found is not None and found.origin is not None
