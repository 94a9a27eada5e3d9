"""The four calls of a drop-in for a framework whose tensors are made of numpy arrays."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from fastio.dropin.in_memory import tensors_in
from fastio.dropin.safe_open import safe_open
from fastio.dropin.serialize import as_bytes, to_file
from fastio.frameworks import FrameworkName, framework
from fastio.saving.origins import origins_of


class ArrayFiles:
    """Load and save the tensors of one framework, as ``safetensors.<framework>`` does.

    Parameters
    ----------
    name : str
        The framework.

    Raises
    ------
    ImportError
        If the framework is not installed.
    """

    def __init__(self, name: FrameworkName) -> None:
        self._name = name
        self._framework = framework(name)

    def load_file(
        self,
        filename: str | os.PathLike[str],
        device: str | None = "cpu",
        *,
        backend: str = "mmap",
    ) -> dict[str, Any]:
        """Load all tensors of one file, verified if it carries checksums.

        Parameters
        ----------
        filename : str or os.PathLike
        device : str or None
            "cpu" or None: tensors go to the default device of the framework.
        backend : {"mmap", "pread"}
            Accepted, and of no effect.

        Raises
        ------
        As `fastio.safe_open` and its `get_tensors` do.

        Examples
        --------
        >>> from fastio.flax import load_file
        >>> tensors = load_file("model.safetensors")  # doctest: +SKIP
        """
        with safe_open(filename, self._name, device, backend=backend) as file:
            return file.get_tensors()

    def load(self, data: bytes, device: str | None = "cpu") -> dict[str, Any]:
        """Load all tensors of a file that is in memory, as copies.

        Raises
        ------
        As `fastio.deserialize` does; TypeError for a dtype that the framework cannot hold;
        UsageError for another device.
        """
        self._framework.mover_to(device)
        return tensors_in(data, self._framework)

    def save(self, tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> bytes:
        """Return tensors as the bytes of a safetensors file, without checksums.

        Parameters
        ----------
        tensors : mapping of str to tensor
        metadata : mapping of str to str, optional
            Stored as it is, without keys that begin with ``fastio.``.

        Raises
        ------
        TypeError, UsageError, DtypeError
            As `fastio.save` does.
        FormatError, MemoryError
            As `fastio.serialize` does.
        """
        return as_bytes(origins_of(tensors), metadata)

    def save_file(
        self,
        tensors: Mapping[str, Any],
        filename: str | os.PathLike[str],
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Save tensors to one file with checksums, as `fastio.save` does.

        Parameters
        ----------
        tensors, metadata
            As `save` takes them.
        filename : str or os.PathLike

        Raises
        ------
        TypeError, UsageError, DtypeError, FormatError, WriteError, MemoryLimitError
            As `fastio.save` does.
        """
        to_file(origins_of(tensors), filename, metadata)
