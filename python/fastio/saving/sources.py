"""Tensors that are handed to be saved, as columns in the order of a file. Looks at memory, and
copies none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fastio import collector
from fastio.errors import UsageError
from fastio.formats import headers
from fastio.frameworks import Place, Source, framework_of
from fastio.shown import shown

# The order of files: by dtype, from the widest on, so that each value lies at a multiple of its
# size; then by name. safetensors has the same one,
# https://github.com/huggingface/safetensors/blob/main/safetensors/src/tensor.rs, enum Dtype
_DTYPE_ORDER = {
    name: rank
    for rank, name in enumerate(
        (
            *("U64", "I64", "F64", "C64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16"),
            *("F8_E5M2FNUZ", "F8_E4M3FNUZ", "F8_E8M0", "F8_E4M3", "F8_E5M2", "I8", "U8"),
            *("F6_E3M2", "F6_E2M3", "F4", "BOOL"),
        )
    )
}
_METADATA_KEY = "__metadata__"


@dataclass(frozen=True, eq=False)
class Sources:
    """Tensors as columns, in the order of their bytes.

    Attributes
    ----------
    names, dtypes : list of str
    shapes : list of tuple of int
    addresses : (n,) uint64
    nbytes : (n,) int64
    layouts : dict of int to (Place, int)
        By position: those whose bytes do not lie one behind the other, and the bytes of each value
        that is stored the other way round, or 1.
    held : list of object
        What keeps the memory alive.
    formats : frozenset of str
        What the metadata of a file calls the frameworks they are of.
    devices : dict of int to int
        By position: those that are on an accelerator, and its ordinal.
    streams : dict of int to int
        By ordinal: the stream whose work on them comes first.
    """

    names: list[str]
    dtypes: list[str]
    shapes: list[tuple[int, ...]]
    addresses: npt.NDArray[np.uint64]
    nbytes: npt.NDArray[np.int64]
    layouts: dict[int, tuple[Place, int]]
    held: list[Any]
    formats: frozenset[str]
    devices: dict[int, int] = field(default_factory=dict)
    streams: dict[int, int] = field(default_factory=dict)

    @property
    def data_bytes(self) -> int:
        """Of all tensors together."""
        return int(self.nbytes.sum())

    def bounds(self, start: int) -> npt.NDArray[np.int64]:
        """Return where each tensor begins, and the last one ends, in data that begins at `start`:
        (n + 1,) int64.
        """
        bounds = np.empty(len(self.names) + 1, np.int64)
        bounds[0] = start
        np.cumsum(self.nbytes, out=bounds[1:])
        bounds[1:] += start
        return bounds

    def entries(self) -> bytes:
        """Return what a header says of them, as compact JSON without the braces around it."""
        bounds = self.bounds(0)
        with collector.Paused():
            return headers.tensor_entries(
                self.names, self.dtypes, self.shapes, bounds[:-1], bounds[1:]
            )

    def take(self, rows: Sequence[int]) -> Sources:
        """Return some of them, by position."""
        index = list(rows)
        return replace(
            self,
            names=[self.names[row] for row in index],
            dtypes=[self.dtypes[row] for row in index],
            shapes=[self.shapes[row] for row in index],
            addresses=self.addresses[index],
            nbytes=self.nbytes[index],
            layouts={at: self.layouts[row] for at, row in enumerate(index) if row in self.layouts},
            held=[self.held[row] for row in index],
            devices={at: self.devices[row] for at, row in enumerate(index) if row in self.devices},
        )

    def on_host(self) -> Sources:
        """Return them with copies on the host of those that are on accelerators."""
        if not self.devices:
            return self
        addresses, held = self.addresses.copy(), list(self.held)
        for row in self.devices:
            held[row] = held[row].to("cpu")
            addresses[row] = held[row].data_ptr()
        return replace(self, addresses=addresses, held=held, devices={}, streams={})


def sources(tensors: Mapping[str, Any]) -> Sources:
    """Look at all tensors, and put them in the order of a file.

    Parameters
    ----------
    tensors : mapping of str to numpy.ndarray or torch.Tensor

    Raises
    ------
    TypeError
        `tensors` is no mapping; a name is no str; a tensor is none, or has no values.
    DtypeError
        A dtype that no file can hold. Names the tensor.
    UsageError
        A name that no file can hold, or that two tensors have.
    ValueError
        A tensor whose memory was taken away.
    """
    if not isinstance(tensors, Mapping):
        raise TypeError(f"tensors must be a mapping of names, not {type(tensors).__name__}")
    with collector.Paused():
        found = []
        formats = set()
        streams: dict[int, int] = {}
        for name, tensor in tensors.items():
            check_name(name)
            held_by = framework_of(tensor)
            if held_by is None:
                raise TypeError(
                    f"tensor {shown(name)} is a {type(tensor).__name__}, and no numpy array or "
                    "torch tensor"
                )
            try:
                source = held_by.source_of(tensor)
            except (TypeError, ValueError) as error:
                raise type(error)(f"tensor {shown(name)} {error}") from None
            if source.device >= 0 and source.device not in streams:
                destination = held_by.destination(tensor.device, None)
                assert destination is not None  # it has the tensor
                streams[source.device] = destination.stream
            formats.add(held_by.FORMAT)
            found.append((str(name), source))
        return replace(in_file_order(found, formats), streams=streams)


def in_file_order(found: Iterable[tuple[str, Source]], formats: Collection[str]) -> Sources:
    """Put what was found of each tensor in the order of a file.

    Parameters
    ----------
    found : iterable of (str, Source)
        Names that `check_name` took.
    formats : collection of str
        What the metadata of a file calls the frameworks they are of.

    Raises
    ------
    UsageError
        A name that two tensors have.
    """
    rows = [(_DTYPE_ORDER[source.dtype], name, source) for name, source in found]
    named = set()
    for _, name, _ in rows:
        if name in named:
            raise UsageError(f"two tensors have the name {shown(name)}")
        named.add(name)
    rows.sort()  # by dtype and name, which is another one in each row
    layouts = {
        at: (source.place, source.swapped_bytes)
        for at, (_, _, source) in enumerate(rows)
        if source.place is not None
    }
    return Sources(
        [name for _, name, _ in rows],
        [source.dtype for _, _, source in rows],
        [source.shape for _, _, source in rows],
        np.array([source.address for _, _, source in rows], np.uint64),
        np.array([source.nbytes for _, _, source in rows], np.int64),
        layouts,
        [source.held for _, _, source in rows],
        frozenset(formats),
        {at: source.device for at, (_, _, source) in enumerate(rows) if source.device >= 0},
    )


def check_name(name: object) -> None:
    """Refuse a name that no tensor of a file can have.

    Raises
    ------
    TypeError
        If it is no str.
    UsageError
        If it is where a header has its metadata, or cannot be written as UTF-8.
    """
    if not isinstance(name, str):
        raise TypeError(f"a tensor's name must be a str, not {type(name).__name__}: {shown(name)}")
    if name == _METADATA_KEY:
        raise UsageError(f"no tensor can have the name {name!r}: a header has its metadata there")
    _check_text(name, "the name")


def _check_text(text: str, what: str) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{what} {shown(text)} cannot be written as UTF-8: {error}") from None


def checked_metadata(metadata: Mapping[Any, Any] | None) -> dict[str, str] | None:
    """Return a copy of what the user wants to be stored with the tensors.

    Raises
    ------
    TypeError
        If it is no mapping of str to str. Names the key.
    UsageError
        Text that cannot be written as UTF-8, or a key that two entries have.
    """
    if metadata is None:
        return None
    if not isinstance(metadata, Mapping):
        raise TypeError(f"metadata must be a mapping of str to str, not {type(metadata).__name__}")
    checked: dict[str, str] = {}
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(
                f"metadata must be of str to str, and not {shown(key)} to {shown(value)}"
            )
        _check_text(key, "the key")
        _check_text(value, f"the metadata of {shown(key)},")
        if str(key) in checked:
            raise UsageError(f"two entries of the metadata have the key {shown(key)}")
        checked[str(key)] = str(value)
    return checked
