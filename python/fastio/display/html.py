"""How things look in a notebook: HTML of a bounded size, in which all text is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

_CHARACTERS_MAX = 200  # of a cell: names of hostile files may have megabytes


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[object]], more: int) -> str:
    """Return a table.

    Parameters
    ----------
    title : str
    head : sequence of str
        What the columns are called.
    rows : iterable of sequences
    more : int
        How many rows there are besides.

    Raises
    ------
    Nothing.
    """
    body = ["".join(f"<td>{_text(cell)}</td>" for cell in row) for row in rows]
    if more > 0:
        body.append(f'<td colspan="{len(head)}">… and {more} more</td>')
    columns = "".join(f"<th>{_text(column)}</th>" for column in head)
    return (
        f"<table><caption>{_text(title)}</caption><thead><tr>{columns}</tr></thead>"
        f"<tbody>{''.join(f'<tr>{row}</tr>' for row in body)}</tbody></table>"
    )


def lines(text: Iterable[str]) -> str:
    """Return lines of text, each as it is.

    Raises
    ------
    Nothing.
    """
    return f"<pre>{'<br>'.join(map(_text, text))}</pre>"


def _text(value: object) -> str:
    text = str(value)
    if len(text) > _CHARACTERS_MAX:
        text = f"{text[:_CHARACTERS_MAX]}…"
    # A character that no encoding has, such as half of a surrogate pair, would lose the whole
    # output.
    return html.escape(text.encode("utf-8", "replace").decode())
