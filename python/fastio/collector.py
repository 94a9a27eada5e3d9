"""The garbage collector, kept out of the way while objects are made by the hundred thousand."""

from __future__ import annotations

import gc


class Paused:
    """While this context lasts, many objects are made that live on: the collector does not look
    for garbage among them.
    """

    def __enter__(self) -> None:
        self._was_enabled = gc.isenabled()
        gc.disable()

    def __exit__(self, *_: object) -> None:
        if self._was_enabled:
            gc.enable()
