"""The groups of a `File`: members by name, and how they are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, KeysView
from typing import Any

import numpy as np

from fastio.display.matches import close_matches
from fastio.display.values import shown
from fastio.dropin.hierarchy_content import Content, blank, check_dtype, checked
from fastio.dropin.hierarchy_members import Attributes, Dataset
from fastio.errors import UsageError


class Members:
    """The members of a group by name, or by a path of several groups."""

    def __init__(self, content: Content, path: str) -> None:
        self._content = content
        self._path = path

    @property
    def name(self) -> str:
        """Its path, from a slash on."""
        return f"/{self._path}"

    @property
    def parent(self) -> Group:
        """The group that it is in; that of the file is the file's own."""
        return Group(self._content, self._path.rpartition("/")[0])

    @property
    def attrs(self) -> Attributes:
        """Its attributes.

        Examples
        --------
        >>> with fastio.File("model.h5.safetensors", "w") as file:
        ...     file.attrs["epoch"] = 3
        ...     file.attrs["epoch"]
        3
        """
        return Attributes(self._content, self._path)

    def _inner(self, name: str) -> str:
        if not isinstance(name, str):
            raise TypeError(f"a name must be a str, not {type(name).__name__}")
        parts = [part for part in name.split("/") if part not in ("", ".")]
        base = [] if name.startswith("/") or not self._path else [self._path]
        return "/".join((*base, *parts))

    def _members(self) -> list[str]:
        content = self._content
        prefix = f"{self._path}/" if self._path else ""
        paths = (*content.datasets(), *content.groups())
        inner = (path[len(prefix) :] for path in paths if path.startswith(prefix))
        return sorted({path.partition("/")[0] for path in inner})

    def __getitem__(self, name: str) -> Any:
        self._content.require_open()
        path = self._inner(name)
        content = self._content
        if content.has(path):
            return Dataset(self._content, path)
        if not path or path in content.groups():
            return Group(self._content, path)
        matches = close_matches(path, [*content.datasets(), *content.groups()])
        hint = f"; close: {', '.join(matches)}" if matches else ""
        raise KeyError(f"{self._content.filename}: nothing is called {shown(path)}{hint}")

    def __contains__(self, name: object) -> bool:
        self._content.require_open()
        if not isinstance(name, str):
            return False
        path = self._inner(name)
        return not path or self._content.has(path) or path in self._content.groups()

    def __iter__(self) -> Iterator[str]:
        self._content.require_open()
        return iter(self._members())

    def __len__(self) -> int:
        self._content.require_open()
        return len(self._members())

    def keys(self) -> KeysView[str]:
        """Return the names of its members, sorted.

        Examples
        --------
        >>> list(fastio.File("model.safetensors").keys())
        ['bias', 'weight']
        """
        self._content.require_open()
        return dict.fromkeys(self._members()).keys()

    def values(self) -> list[Any]:
        """Return its members.

        Examples
        --------
        >>> [dataset.shape for dataset in fastio.File("model.safetensors").values()]
        [(3,), (2, 3)]
        """
        return [self[name] for name in self._members()]

    def items(self) -> list[tuple[str, Any]]:
        """Return names and members.

        Examples
        --------
        >>> {name: dataset.ndim for name, dataset in fastio.File("model.safetensors").items()}
        {'bias': 1, 'weight': 2}
        """
        return [(name, self[name]) for name in self._members()]

    def get(self, name: str, default: Any = None) -> Any:
        """Return a member, or a default if there is none of that name.

        Examples
        --------
        >>> fastio.File("model.safetensors").get("scale", 1.0)
        1.0
        """
        return self[name] if name in self else default  # noqa: SIM401

    def visititems(self, visit: Callable[[str, Any], Any]) -> Any:
        """Call a function with the path and the object of all that is below this group.

        Parameters
        ----------
        visit : callable
            A value other than None ends the visit, and is returned.

        Examples
        --------
        >>> fastio.File("model.safetensors").visititems(lambda path, member: print(path))
        bias
        weight
        """
        for name, member in self.items():
            below = [(name, member)]
            while below:
                path, each = below.pop(0)
                found = visit(path, each)
                if found is not None:
                    return found
                if isinstance(each, Members):
                    below[:0] = [(f"{path}/{inner}", one) for inner, one in each.items()]
        return None

    def visit(self, visit: Callable[[str], Any]) -> Any:
        """Call a function with the path of all that is below this group, as `visititems` does.

        Examples
        --------
        >>> fastio.File("model.safetensors").visit(print)
        bias
        weight
        """
        return self.visititems(lambda path, _: visit(path))


class Group(Members):
    """A group of a file, to which members can be added."""

    def __setitem__(self, name: str, values: Any) -> None:
        self.create_dataset(name, data=values)

    def __delitem__(self, name: str) -> None:
        self._content.require_writable()
        path = self._inner(name)
        content = self._content
        if not content.has(path) and path not in content.groups():
            raise KeyError(f"{self._content.filename}: nothing is called {shown(path)}")
        content.remove(path)

    def create_group(self, name: str) -> Group:
        """Make a group.

        Raises
        ------
        UsageError
            Something has that name; the file is read only.

        Examples
        --------
        >>> with fastio.File("run.safetensors", "w") as file:
        ...     file.create_group("layers/0").name
        '/layers/0'
        """
        path = self._free(name)
        self._content.annotations.groups.add(path)
        return Group(self._content, path)

    def require_group(self, name: str) -> Group:
        """Return a group, made if it is not there.

        Raises
        ------
        UsageError
            A dataset has that name; the file is read only.

        Examples
        --------
        >>> with fastio.File("run.safetensors", "w") as file:
        ...     file.require_group("layers").require_group("0").name
        '/layers/0'
        """
        path = self._inner(name)
        if path in self._content.groups() or not path:
            return Group(self._content, path)
        return self.create_group(name)

    def create_dataset(
        self,
        name: str,
        shape: int | tuple[int, ...] | None = None,
        dtype: Any = None,
        data: Any = None,
        **more: Any,
    ) -> Dataset:
        """Make a dataset, of values or of zeros that are filled by slices.

        Parameters
        ----------
        name : str
            May be a path; missing groups are made.
        shape : int or tuple of int, optional
            Needed without `data`.
        dtype : numpy dtype, optional
            Default: that of `data`, or else float32.
        data : array, number, str, or a list of them, optional
            It is copied.
        **more
            Arguments of h5py that store a dataset otherwise than contiguous, such as `compression`,
            are refused unless they are None or False.

        Raises
        ------
        UsageError
            Something has that name; the file is read only; a dtype that no file has.
        ValueError
            A shape that is not that of the data.

        Examples
        --------
        >>> with fastio.File("run.safetensors", "w") as file:
        ...     data = file.create_dataset("data", (4, 2), "f4")
        ...     data[1:3] = 5
        >>> fastio.File("run.safetensors")["data"][:, 0]
        array([0., 5., 5., 0.], dtype=float32)
        """
        asked = [key for key, value in more.items() if value is not None and value is not False]
        if asked:
            raise UsageError(f"{', '.join(asked)}: datasets of fastio.File are contiguous")
        path = self._free(name)
        content = self._content
        wanted = None if shape is None else (shape,) if isinstance(shape, int) else tuple(shape)
        if data is None:
            if wanted is None:
                raise UsageError(f"dataset {shown(path)} has neither a shape nor data")
            kind = np.dtype(dtype or "f4")
            check_dtype(kind, path, content.target)
            content.arrays[path] = blank(wanted, kind, content.target)
            return Dataset(self._content, path)
        values = checked(data, path, dtype, content.target)
        if not isinstance(values, np.ndarray):
            content.annotations.texts[path] = values
        elif wanted is not None and wanted != values.shape:
            content.arrays[path] = values.reshape(wanted)
        else:
            content.arrays[path] = values
        return Dataset(self._content, path)

    def require_dataset(self, name: str, shape: int | tuple[int, ...], dtype: Any) -> Dataset:
        """Return a dataset, made if it is not there.

        Raises
        ------
        TypeError
            The one that is there has another shape or dtype.

        Examples
        --------
        >>> with fastio.File("run.safetensors", "w") as file:
        ...     file.require_dataset("data", (4,), "f4")[:] = 1
        """
        if name not in self:
            return self.create_dataset(name, shape, dtype)
        found = self[name]
        wanted = (shape,) if isinstance(shape, int) else tuple(shape)
        if not isinstance(found, Dataset) or (found.shape, found.dtype) != (
            wanted,
            np.dtype(dtype),
        ):
            raise TypeError(f"{shown(name)} is {found!r}; expected shape {wanted}, {dtype}")
        return found

    def _free(self, name: str) -> str:
        """The path of what is about to be made."""
        self._content.require_writable()
        path = self._inner(name)
        content = self._content
        if not path or "@" in path:
            raise UsageError(f"{shown(name)}: expected a name without @")
        above = path
        while above := above.rpartition("/")[0]:
            if content.has(above):
                raise UsageError(f"{shown(above)} is a dataset, and has no members")
        if content.has(path) or path in content.groups():
            raise UsageError(f"{self._content.filename}: {shown(path)} is there already")
        return path

    def __repr__(self) -> str:
        return f"<fastio group {shown(self.name)}: {len(self)} members>"
