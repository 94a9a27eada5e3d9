"""Result files: one JSON document for each suite and machine."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

# Older files were measured without memory held, beside a fio on small pages.
SCHEMA = 2


def to_json(document: dict[str, Any]) -> str:
    """Return the document as text, with each series on one line."""
    text = json.dumps(document, indent=1, ensure_ascii=False)
    # A list of scalars is one line.
    folded = re.sub(
        r"\[\s+([^\[\]{}]*?)\s+\]",
        lambda found: "[" + re.sub(r"\s*\n\s*", " ", found[1]) + "]",
        text,
    )
    return folded + "\n"


def read(path: Path) -> dict[str, Any]:
    """Return a result file.

    Raises
    ------
    ValueError
        It has another schema, with other figures.
    """
    document: dict[str, Any] = json.loads(path.read_text())
    if document.get("schema") != SCHEMA:
        raise ValueError(f"{path} is of schema {document.get('schema')}: measure it again")
    return document


def write(path: Path, document: dict[str, Any]) -> None:
    """Write a result file as a whole or not at all, since a measurement may be killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partly = path.with_name(path.name + ".part")
    partly.write_text(to_json(document))
    partly.replace(path)
