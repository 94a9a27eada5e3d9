"""Tensors that are handed to be saved, as columns in the order of a file. Looks at memory, and
copies none.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from fastio.display.values import shown
from fastio.errors import UsageError
from fastio.formats import headers
from fastio.frameworks import Origin, Place, framework_of
from fastio.frameworks import numpy as numpy_arrays
from fastio.frameworks.handed import check_mapping, problem_of
from fastio.host import collector

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
_Value = TypeVar("_Value")
_text_of = str.__str__  # str() is asked of the class, and an Enum's answer is no value


class Origins(msgspec.Struct, frozen=True, eq=False):
    """Tensors as columns; in the order of their bytes, once `in_file_order` put them there.

    Attributes
    ----------
    names, dtypes : list of str
    shapes : list of tuple of int
    addresses : (n,) uint64
    nbytes : (n,) int64
    layouts : dict of int to (Place, int)
        By position: those whose bytes do not lie one behind the other, and the bytes of each value
        that is stored the other way round, or 1.
    owners : list of object
        What keeps the memory alive.
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
    owners: list[Any]
    devices: dict[int, int] = msgspec.field(default_factory=dict)
    streams: dict[int, int] = msgspec.field(default_factory=dict)

    @classmethod
    def blank(cls, names: list[str]) -> Origins:
        """Return columns with nothing but names, for `put`."""
        n = len(names)
        addresses, nbytes = np.zeros(n, np.uint64), np.zeros(n, np.int64)
        return cls(names, [""] * n, [()] * n, addresses, nbytes, {}, [None] * n)

    @property
    def data_bytes(self) -> int:
        """Of all tensors together."""
        return int(np.add.reduce(self.nbytes))  # the imports of sum() may be out of reach

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
        with collector.CollectorPaused():
            return headers.tensor_entries(
                self.names, self.dtypes, self.shapes, bounds[:-1], bounds[1:]
            )

    def put(self, row: int, origin: Origin) -> None:
        """Say where the one at a position is taken from."""
        self.dtypes[row], self.shapes[row] = origin.dtype, origin.shape
        self.owners[row] = origin.owner
        self.addresses[row], self.nbytes[row] = origin.address, origin.nbytes
        if origin.place is not None:
            self.layouts[row] = (origin.place, origin.swapped_bytes)
        if origin.device >= 0:
            self.devices[row] = origin.device

    def take(self, rows: Sequence[int]) -> Origins:
        """Return some of them, by position."""
        index = list(rows)
        return msgspec.structs.replace(
            self,
            names=[self.names[row] for row in index],
            dtypes=[self.dtypes[row] for row in index],
            shapes=[self.shapes[row] for row in index],
            addresses=self.addresses[index],
            nbytes=self.nbytes[index],
            layouts=_taken(self.layouts, index),
            owners=[self.owners[row] for row in index],
            devices=_taken(self.devices, index),
        )

    def on_host(self) -> Origins:
        """Return them with copies on the host of those that are on accelerators."""
        if not self.devices:
            return self
        addresses, owners = self.addresses.copy(), list(self.owners)
        for row in self.devices:
            owners[row] = owners[row].to("cpu")
            addresses[row] = owners[row].data_ptr()
        return msgspec.structs.replace(
            self, addresses=addresses, owners=owners, devices={}, streams={}
        )


def _taken(values: dict[int, _Value], rows: list[int]) -> dict[int, _Value]:
    if not values:  # as a rule
        return {}
    return {at: values[row] for at, row in enumerate(rows) if row in values}


def origins_of(tensors: Mapping[str, Any]) -> Origins:
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
    check_mapping(tensors)
    with collector.CollectorPaused():
        items = list(tensors.items())
        names = checked_names([name for name, _ in items])
        given = [tensor for _, tensor in items]
        dtypes, shapes, addresses, nbytes = numpy_arrays.columns_of(given)
        found = Origins(names, dtypes, shapes, addresses, nbytes, {}, given)
        for row, dtype in enumerate(dtypes):
            if not dtype:
                _look_at(found, row)
        return in_file_order(found)


def _look_at(found: Origins, row: int) -> None:
    """Look at one tensor that is no plain array."""
    name, tensor = found.names[row], found.owners[row]
    framework = framework_of(tensor)
    if framework is None:
        raise TypeError(f"tensor {shown(name)} {problem_of(tensor)}")
    try:
        origin = framework.origin_of(tensor)
    except (TypeError, ValueError) as error:
        raise type(error)(f"tensor {shown(name)} {error}") from None
    if origin.device >= 0 and origin.device not in found.streams:
        destination = framework.destination(tensor.device, None)
        assert destination is not None  # it has the tensor
        found.streams[origin.device] = destination.stream
    found.put(row, origin)


def in_file_order(found: Origins) -> Origins:
    """Return tensors in the order of a file.

    Raises
    ------
    UsageError
        A name that two tensors have.
    """
    order = sorted(range(len(found.names)), key=found.names.__getitem__)
    if len(set(found.names)) < len(order):
        pairs = itertools.pairwise(found.names[row] for row in order)
        twice = next(one for one, other in pairs if one == other)
        raise UsageError(f"two tensors have the name {shown(twice)}")
    order.sort(key=[_DTYPE_ORDER[dtype] for dtype in found.dtypes].__getitem__)
    return found.take(order)


def checked_names(names: list[Any]) -> list[str]:
    """Return the names of tensors as plain str, if they are of subclasses.

    Raises
    ------
    TypeError
        If one is no str.
    UsageError
        If one is where a header has its metadata, or cannot be written as UTF-8.
    """
    for name in names:
        if not isinstance(name, str):
            raise TypeError(
                f"a tensor's name must be a str, not {type(name).__name__}: {shown(name)}"
            )
    texts = list(map(_text_of, names))
    if _METADATA_KEY in texts:
        raise UsageError(
            f"no tensor can have the name {_METADATA_KEY!r}: a header has its metadata there"
        )
    for text in texts:
        _check_text(text, "the name")
    return texts


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
        text = _text_of(key)
        if text in checked:
            raise UsageError(f"two entries of the metadata have the key {shown(key)}")
        checked[text] = _text_of(value)
    return checked
