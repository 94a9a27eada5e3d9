"""Groups, attributes and texts in metadata: how a file of tensors has what HDF5 has beside them.

Tensors are called by their paths, ``group/name``. Of the metadata, ``name`` is an attribute of the
file, ``path@name`` one of a group or tensor, and ``path@`` a text that lies at that path.
``/@name`` is an attribute of the file whose name would mean something else. ``@groups`` lists the
groups that are empty; it is always there. Values are JSON, or texts that are no JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import numpy as np

from fastio.display.values import shown
from fastio.formats.checksums import FORMAT_OF_NONE, KEY_PREFIX

_GROUPS = "@groups"


class Annotations(msgspec.Struct):
    """The attributes, texts and empty groups of a file.

    Attributes
    ----------
    attributes : dict of str to dict of str to object
        By path, and then by name; the file itself has the path ``""``.
    texts : dict of str to object
        By path: a str, or a list of them, of lists, and so on; None for a dataset without values.
    groups : set of str
        Paths of groups that are empty.
    """

    attributes: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)
    texts: dict[str, Any] = msgspec.field(default_factory=dict)
    groups: set[str] = msgspec.field(default_factory=set)

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> Annotations:
        """Return those that metadata has; others than those of `metadata` are texts of the file."""
        found = cls()
        if _GROUPS not in metadata:
            found.attributes[""] = dict(metadata)
            return found
        for key, text in metadata.items():
            path, at, name = key.partition("@")
            path = "" if path == "/" else _unescaped(path)
            if key == _GROUPS:
                listed = _value_of(text)
                found.groups.update(map(str, listed if isinstance(listed, list) else ()))
            elif at and not name:
                found.texts[path] = _value_of(text)
            elif at:
                found.attributes.setdefault(path, {})[name] = _value_of(text)
            elif (key, text) not in FORMAT_OF_NONE.items():  # which a save adds
                found.attributes.setdefault("", {})[key] = _value_of(text)
        return found

    def metadata(self) -> dict[str, str]:
        """Return them as metadata."""
        found = {}
        for path, attributes in self.attributes.items():
            for name, value in attributes.items():
                found[_key_of(path, name)] = text_of(value)
        found.update((f"{_escaped(path)}@", text_of(value)) for path, value in self.texts.items())
        found[_GROUPS] = json.dumps(sorted(self.groups))
        return found


def plain(value: Any) -> Any:
    """Return a value as JSON can have it: numpy's values as numbers and lists, bytes as texts."""
    if isinstance(value, bytes):
        return value.decode(errors="surrogateescape")
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else shown(value)


def parents(paths: Iterable[str]) -> set[str]:
    """Return the groups that paths lie in, and these in turn."""
    found = set()
    for path in paths:
        while path := path.rpartition("/")[0]:
            if path in found:
                break
            found.add(path)
    return found


def text_of(value: Any) -> str:
    """Return a value as metadata have it: JSON, unless it is a text that is none."""
    value = plain(value)
    if isinstance(value, str) and _value_of(value) == value and _is_utf8(value):
        return value
    return json.dumps(value)


def _key_of(path: str, name: str) -> str:
    if path:
        return f"{_escaped(path)}@{name}"
    is_taken = "@" in name or name.startswith(KEY_PREFIX) or name in FORMAT_OF_NONE
    return f"/@{name}" if is_taken else name


def _escaped(path: str) -> str:
    return path.replace("%", "%25").replace("@", "%40")


def _unescaped(path: str) -> str:
    return path.replace("%40", "@").replace("%25", "%")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _value_of(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
