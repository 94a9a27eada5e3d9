"""The members of a `File`: datasets, and the attributes of all that it has."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

import numpy as np

from fastio.display.matches import close_matches
from fastio.display.values import shown
from fastio.dropin.hierarchy_content import Content, Values, checked_attribute


class Attributes(MutableMapping[str, Any]):
    """The attributes of a file, group or dataset: numbers, texts, and lists and arrays of them."""

    def __init__(self, content: Content, path: str) -> None:
        self._content = content
        self._path = path

    def _all(self) -> dict[str, Any]:
        self._content.require_open()
        return self._content.annotations.attributes.get(self._path, {})

    def __getitem__(self, name: str) -> Any:
        if name not in self._all():
            matches = close_matches(name, self._all())
            hint = f"; close: {', '.join(matches)}" if matches else ""
            raise KeyError(f"{self._content.filename}: no attribute {shown(name)}{hint}")
        value = self._all()[name]
        return np.asarray(value) if isinstance(value, list) else value

    def __setitem__(self, name: str, value: Any) -> None:
        self._content.require_writable()
        attributes = self._content.annotations.attributes
        content = self._content
        if self._path and not content.has(self._path) and self._path not in content.groups():
            raise KeyError(f"{content.filename}: {shown(self._path)} is no longer there")
        attributes.setdefault(self._path, {})[name] = checked_attribute(name, value)

    def __delitem__(self, name: str) -> None:
        self._content.require_writable()
        del self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __repr__(self) -> str:
        return f"<fastio attributes of {shown(self._path or '/')}: {len(self)}>"


class Dataset:
    """A dataset of a file, which is read as far as it is indexed."""

    def __init__(self, content: Content, path: str) -> None:
        self._content = content
        self._path = path
        self.shape, self.dtype = content.description(path)

    @property
    def name(self) -> str:
        """Its path, from a slash on."""
        return f"/{self._path}"

    @property
    def ndim(self) -> int:
        """How many axes it has."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """How many values it has."""
        return int(np.prod(self.shape, dtype=object))

    @property
    def nbytes(self) -> int:
        """Of its values."""
        return self.size * self.dtype.itemsize

    @property
    def attrs(self) -> Attributes:
        """Its attributes."""
        return Attributes(self._content, self._path)

    def __getitem__(self, index: Any) -> Any:
        self._content.require_open()
        return self._content.part(self._path, index)

    def __setitem__(self, index: Any, values: Any) -> None:
        self._content.require_writable()
        self._content.put(self._path, index, values)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError(f"{self.name} is a scalar, and has no length")
        return self.shape[0]

    def __iter__(self) -> Iterator[Any]:
        return (self[at] for at in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Values:
        values: Values = np.asarray(self[...])
        return values if dtype is None else values.astype(dtype)

    def __repr__(self) -> str:
        return f"<fastio dataset {shown(self._path)}: shape {self.shape}, {self.dtype}>"
