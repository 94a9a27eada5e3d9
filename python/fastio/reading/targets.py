"""Memory that is about to be filled: which tensors are the same bytes of it, and which overlap."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from fastio.display.values import shown
from fastio.frameworks import Place, framework_of

# Deciding whether two interleaved layouts share a byte may take forever; beyond this they are
# refused.
_OVERLAP_WORK_MAX = 10_000


class Target(NamedTuple):
    """The memory of one tensor.

    Attributes
    ----------
    begin, end : int
        Addresses.
    name : str
    place : Place
    """

    begin: int
    end: int
    name: str
    place: Place

    @classmethod
    def of(cls, name: str, place: Place) -> Target:
        """Return the memory of a tensor that lies at a place."""
        low = high = 0
        for stride, length in zip(place.strides, place.shape, strict=True):
            reach = stride * (length - 1)
            low, high = low + min(reach, 0), high + max(reach, 0)
        return cls(place.address + low, place.address + high + place.item_bytes, name, place)

    @property
    def layout(self) -> tuple[int, tuple[tuple[int, int], ...]]:
        """How its values lie in it; axes of one value do not matter."""
        place = self.place
        axes = zip(place.shape, place.strides, strict=True)
        return place.item_bytes, tuple((length, step) for length, step in axes if length != 1)

    def is_same_memory(self, other: Target) -> bool:
        """Whether both are the same bytes, in the same layout or without a gap."""
        if (self.begin, self.end) != (other.begin, other.end):
            return False
        if self.place.device != other.place.device:
            return False
        return self.layout == other.layout or (self._has_no_gap and other._has_no_gap)

    def lies_in(self, other: Target) -> bool:
        """Whether it is a range of the other one's bytes, each value behind the one before."""
        return (
            other.begin <= self.begin
            and self.end <= other.end
            and self.place.device == other.place.device
            and self._is_in_order
            and other._is_in_order
        )

    @property
    def _is_in_order(self) -> bool:
        step = self.place.item_bytes
        for length, stride in reversed(self.layout[1]):
            if stride != step:
                return False
            step *= length
        return True

    @property
    def _has_no_gap(self) -> bool:
        return self.place.item_bytes * int(np.prod(self.place.shape)) == self.end - self.begin


def same_memory(targets: Iterable[Target]) -> dict[str, Target]:
    """Return the names of tensors that are the same memory as another one, or a range of it, each
    with that one.

    Raises
    ------
    Nothing.
    """
    found: dict[str, Target] = {}
    same: dict[str, list[Target]] = defaultdict(list)
    of_extents: dict[tuple[int, int], list[Target]] = defaultdict(list)
    for target in targets:
        others = of_extents[target.begin, target.end]
        first = next((other for other in others if other.is_same_memory(target)), None)
        if first is None:
            others.append(target)
        else:
            same[first.name].append(target)
    firsts = [first for others in of_extents.values() for first in others]
    outer: Target | None = None
    for first in sorted(firsts, key=lambda target: (target.begin, -target.end)):
        group = [first, *same[first.name]]
        if outer is not None and all(target.lies_in(outer) for target in group):
            found |= dict.fromkeys((target.name for target in group), outer)
            continue
        outer = first if outer is None or first.end > outer.end else outer
        found |= dict.fromkeys((target.name for target in group[1:]), first)
    return found


def filled_with_others(
    missing: Iterable[str], present: Iterable[str], tensors: Mapping[str, Any]
) -> dict[str, str]:
    """Return which of the missing names are the same memory as a present one, each with that one.

    Raises
    ------
    Nothing.
    """
    missing = list(missing)
    targets = [found for name in present if (found := _looked_at(name, tensors[name])) is not None]
    targets += [found for name in missing if (found := _looked_at(name, tensors[name])) is not None]
    same = same_memory(targets)
    absent = set(missing)
    return {
        name: first.name
        for name, first in same.items()
        if name in absent and first.name not in absent
    }


def _looked_at(name: str, tensor: Any) -> Target | None:
    """The memory of a tensor whose dtype no file says; None where there is none to share."""
    framework = framework_of(tensor)
    if framework is None:
        return None
    try:
        origin = framework.origin_of(tensor)
    except (TypeError, ValueError):  # it is refused by name where it is to be filled
        return None
    if not origin.nbytes:
        return None
    place = origin.place
    if place is None:
        place = Place(origin.address, 1, (origin.nbytes,), (1,), origin.device)
    return Target.of(name, place)


def check_apart(targets: list[Target]) -> None:
    """Refuse tensors that share memory.

    Raises
    ------
    ValueError
        Names two of them.
    """
    targets.sort()
    reaching: list[Target] = []  # beyond where the next one begins
    for target in targets:
        reaching = [other for other in reaching if other.end > target.begin]
        for other in reaching:
            if _overlap(other, target):
                raise ValueError(f"tensors {shown(other.name)} and {shown(target.name)} overlap")
        reaching.append(target)


def _overlap(one: Target, other: Target) -> bool:
    """Whether two layouts share a byte; those that interleave need not."""
    base = min(one.begin, other.begin)
    memory = np.lib.stride_tricks.as_strided(
        np.empty(1, np.uint8), (max(one.end, other.end) - base,), (1,)
    )
    one_view, other_view = (
        np.ndarray(
            (*each.place.shape, each.place.item_bytes),
            np.uint8,
            memory,
            each.place.address - base,
            (*each.place.strides, 1),
        )
        for each in (one, other)
    )
    try:
        return np.shares_memory(one_view, other_view, max_work=_OVERLAP_WORK_MAX)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True
