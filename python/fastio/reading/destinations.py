"""The device that each tensor goes to, by its name; and memory of the host as one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import fastio._native as _native
from fastio.display.values import shown
from fastio.errors import UsageError
from fastio.frameworks import Destination, Framework
from fastio.reading import split

Choose = Callable[[str], Destination]


def chooser(
    framework: Framework, device: object, device_map: Mapping[str, object] | None, stream: object
) -> Choose | None:
    """Return where each tensor goes, by its name; None where all stay on the CPU.

    Raises
    ------
    DeviceError
        If the framework has no such device here.
    UsageError
        `device` and `device_map` at once, a device that there is not, a stream without a device;
        and, when it is called, a name that the map does not have.
    """
    if device_map is None:
        destination = _destination(framework, device, stream)
        return None if destination is None else lambda _: destination
    if device not in (None, "cpu"):
        raise UsageError("device= and device_map= cannot both be given")
    if stream is not None:
        raise UsageError("stream= is for one device, and device_map= may have several")
    if not isinstance(device_map, Mapping):
        raise TypeError(f"device_map must be a mapping, not {type(device_map).__name__}")
    found = {
        prefix: _destination(framework, to, None) or OnHost(framework)
        for prefix, to in device_map.items()
    }
    if all(each.ordinal < 0 for each in found.values()) and "" in found:
        return None
    prefixes = sorted(found, key=len, reverse=True)

    def choose(name: str) -> Destination:
        for prefix in prefixes:
            if not prefix or name == prefix or name.startswith(f"{prefix}."):
                return found[prefix]
        raise UsageError(f"device_map has no place for tensor {shown(name)}")

    return choose


def _destination(framework: Framework, device: object, stream: object) -> Destination | None:
    found = framework.destination(device, stream)
    if found is None and framework.mover_to(device) is not None:
        raise UsageError(
            f"device={device!r}: loads go to the CPU and to CUDA; load to the CPU, then move"
        )
    return found


def onto_the_host(framework: Framework) -> Choose:
    """Return what sends every tensor to memory of the host.

    Raises
    ------
    Nothing.
    """
    here = OnHost(framework)
    return lambda _: here


class OnHost:
    """The destination of tensors that stay on the CPU."""

    ordinal = -1
    stream = 0

    def __init__(self, framework: Framework) -> None:
        self._framework = framework

    def allocate(self, nbytes: int) -> tuple[object, int]:
        """Return memory, and its address."""
        memory = split.memory(nbytes, huge_pages=True)
        return memory, _native.address_of(memory)

    def wrap(
        self, owner: Any, address: int, nbytes: int, dtype: str, shape: tuple[int, ...]
    ) -> Any:
        """Return a part of that memory as a tensor."""
        if owner is None:
            owner, address = self.allocate(0)
        begin = address - _native.address_of(owner)
        return self._framework.adopt(owner[begin : begin + nbytes], dtype, shape)

    def used_on(self, owner: object, other: Destination) -> None:
        """Memory here is in no stream."""
