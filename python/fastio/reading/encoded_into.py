"""Encoded tensors, decoded and copied to memory of the caller."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from fastio.catalog import Catalog
from fastio.display.progress import Advance
from fastio.errors import MemoryLimitError
from fastio.frameworks import framework
from fastio.options import Options
from fastio.reading import encoded
from fastio.reading.decoding import Bytes
from fastio.reading.located import LocatedSource
from fastio.reading.stored import Need, not_on_device
from fastio.reading.tally import Tally
from fastio.reading.targets import Target


class EncodedFill:
    """The encoded tensors of a source, on their way to memory of the caller.

    Parameters
    ----------
    located : LocatedSource
    catalog : Catalog or None
        Its encoded tensors; None if there are none.
    targets : mapping of str to Target
        The memory of each of them.
    verify : bool
    options : Options

    Attributes
    ----------
    complete : list of str
        The tensors that were filled.
    tally : Tally
        Counts what is read.

    Raises
    ------
    MemoryLimitError
        One of them, and what reading it takes, are above the limit.
    UsageError
        One of them is to go to an accelerator.
    """

    def __init__(
        self,
        located: LocatedSource,
        catalog: Catalog | None,
        targets: Mapping[str, Target],
        *,
        verify: bool,
        options: Options,
    ) -> None:
        self._located = located
        self._catalog = catalog
        self._targets = targets
        self._verify = verify
        self._options = options
        self.complete: list[str] = []
        self.tally = Tally()
        if catalog is None:
            return
        for name in catalog:
            if targets[name].place.device >= 0:
                raise not_on_device(catalog.info(name))
        limit = options.memory_limit_bytes
        need = Need.of(catalog, verify=verify).all_bytes
        if limit is not None and need > limit:
            raise MemoryLimitError(need, limit)

    def run(self, progress: Advance | None) -> None:
        """Fill them, one after another.

        Raises
        ------
        FormatError
            A tensor cannot be decoded; it is not written to.
        ChecksumError, MemoryError, ReadError
            As `fastio.load` does.
        """
        if self._catalog is None:
            return
        limit = self._options.memory_limit_bytes
        tensors = encoded.in_file_order(
            msgspec.structs.replace(self._located, catalog=self._catalog, cuts={}),
            framework("numpy"),
            verify=self._verify,
            options=self._options,
            window_bytes=encoded.WINDOW_BYTES if limit is None else limit,
            tally=self.tally,
        )
        for name, tensor in encoded.told(tensors, self._catalog, progress):
            _put(tensor.reshape(-1).view(np.uint8), self._targets[name])
            self.complete.append(name)
            del tensor  # before the next one is decoded


def _put(memory: Bytes, target: Target) -> None:
    """Copy the bytes of a tensor to its place."""
    place = target.place
    if not memory.size:
        return
    there: Any = (ctypes.c_ubyte * (target.end - target.begin)).from_address(target.begin)
    view: npt.NDArray[np.uint8] = np.ndarray(
        (*place.shape, place.item_bytes),
        np.uint8,
        there,
        place.address - target.begin,
        (*place.strides, 1),
    )
    view[...] = memory.reshape(view.shape)
