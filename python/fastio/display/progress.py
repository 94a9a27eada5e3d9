"""The progress bar: bytes, speed and the time that is left, in a terminal, a notebook or a log."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from fastio.display import values as text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

Advance = Callable[[int, int], None]
# Characters of a line: bytes, speed and time need the first; the others are at most as long.
_FIGURES, _NAME_MAX, _BAR_MAX, _BAR_MIN = 38, 40, 40, 5
_REWRITTEN_EVERY_S = 0.25


def import_progress_bar() -> None:
    """Import what a progress bar needs: for one that is shown later, on another thread.

    Raises
    ------
    ImportError
        If it is not installed, or cannot be reached any more.
    """
    import rich.console
    import rich.progress  # noqa: F401


@contextlib.contextmanager
def progress_bar(what: str, nbytes: int, *, shown: bool) -> Iterator[Advance | None]:
    """Show a progress bar; call what is given with the bytes done and the bytes in all.

    A terminal has it on standard error. A log, or anything else but a terminal, gets one line of
    text at the end. A notebook without ipywidgets gets a line of text that is rewritten.

    Parameters
    ----------
    what : str
        The path of what is read or written.
    nbytes : int
        How many bytes there are, where nothing else is said.
    shown : bool
        Where it is not to be shown, there is nothing to call: None.

    Raises
    ------
    Nothing.
    """
    if not shown:
        yield None
        return
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    console, is_rewritten = _console()
    columns: list[ProgressColumn] = [
        TextColumn("{task.description}", markup=False),
        DownloadColumn(),
        TextColumn("{task.fields[speed]}", markup=False),
        TimeRemainingColumn(elapsed_when_finished=True),
    ]
    name = (os.path.basename(what) or what).encode(errors="replace").decode()
    name = text.cut(name, max(1, min(_NAME_MAX, console.width - _FIGURES - _BAR_MIN)))
    bar_width = min(_BAR_MAX, console.width - _FIGURES - len(name))
    if bar_width >= _BAR_MIN and (console.is_terminal or console.is_jupyter):
        columns.insert(1, BarColumn(bar_width))
    begun = rewritten = time.monotonic()
    bar = Progress(*columns, console=console)
    try:
        bar.start()
    except RuntimeError:  # no thread to be had that draws it
        bar.stop()
        yield None
        return
    try:
        task = bar.add_task(name, total=nbytes, speed="")

        def advance(done: int, total: int) -> None:
            nonlocal rewritten
            now = time.monotonic()
            speed = text.rate(done / (now - begun)) if done and now > begun else ""
            bar.update(task, completed=done, total=total or nbytes, speed=speed)
            if is_rewritten and now - rewritten > _REWRITTEN_EVERY_S:
                rewritten = now
                _rewrite(bar, console)

        yield advance
        total = int(bar.tasks[0].total or 0)
        advance(total, total)
        if is_rewritten:
            sys.stdout.write("\r")
    finally:
        bar.stop()


def shifted(progress: Advance | None, before: int, total: int) -> Advance | None:
    """Return what tells the progress of a part as that of the whole.

    Raises
    ------
    Nothing.
    """
    if progress is None:
        return None
    return lambda done, _: progress(before + done, total)


def _console() -> tuple[Console, bool]:
    """The output that it is drawn on, and whether that is a line of text to be rewritten."""
    from importlib.util import find_spec

    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_jupyter:
        return console, False
    # A notebook shows standard error as an error. Its live display needs ipywidgets.
    if find_spec("ipywidgets") is not None:
        return Console(), False
    return Console(force_jupyter=False, force_terminal=False), True


def _rewrite(bar: Progress, console: Console) -> None:
    with console.capture() as line:
        console.print(bar.get_renderable(), end="")
    sys.stdout.write("\r" + line.get().rstrip("\n"))
    sys.stdout.flush()
