"""Verified chunks that are kept for a while, for the neighbours of a small tensor."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import numpy.typing as npt

CACHED_BYTES_MAX = 2**23


class Chunks:
    """The verified chunks that were used last."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, int, int], npt.NDArray[np.uint8]] = OrderedDict()
        self._nbytes = 0

    def get(self, key: tuple[str, int, int]) -> npt.NDArray[np.uint8] | None:
        chunks = self._kept.get(key)
        if chunks is not None:
            self._kept.move_to_end(key)
        return chunks

    def put(self, key: tuple[str, int, int], chunks: npt.NDArray[np.uint8]) -> None:
        self._kept[key] = chunks
        self._nbytes += chunks.nbytes
        while self._nbytes > CACHED_BYTES_MAX:
            _, oldest = self._kept.popitem(last=False)
            self._nbytes -= oldest.nbytes

    def clear(self) -> None:
        self._kept.clear()
        self._nbytes = 0
