"""The dtypes of tensors in files: their bits, and shapes as frameworks count packed values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import msgspec


class Dtype(msgspec.Struct, frozen=True):
    """A dtype of the safetensors format.

    Attributes
    ----------
    name : str
        As headers write it.
    bits : int
        Of one value; below eight, values are packed.
    """

    name: str
    bits: int

    @property
    def align_bytes(self) -> int:
        """The alignment of a value in memory; 1 for packed values."""
        return max(1, self.bits // 8)


# https://github.com/huggingface/safetensors/blob/main/safetensors/src/tensor.rs, enum Dtype,
# release 0.8
DTYPES: Mapping[str, Dtype] = MappingProxyType(
    {
        name: Dtype(name, bits)
        for bits, names in {
            4: ("F4",),
            6: ("F6_E2M3", "F6_E3M2"),
            8: (
                *("BOOL", "U8", "I8"),
                *("F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"),
            ),
            16: ("I16", "U16", "F16", "BF16"),
            32: ("I32", "U32", "F32"),
            64: ("C64", "F64", "I64", "U64"),
        }.items()
        for name in names
    }
)
"""Every dtype that a header may name."""


def shapes_in_memory(dtypes: Sequence[str], shapes: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Return the shapes as frameworks count them: values of F4 in pairs, two to a byte.

    Rows of F4 must be whole bytes.
    """
    if "F4" not in dtypes:
        return shapes
    return [shape_in_memory(dtype, shape) for dtype, shape in zip(dtypes, shapes, strict=True)]


def shape_in_memory(dtype: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return one shape as `shapes_in_memory` does."""
    return (*shape[:-1], shape[-1] // 2) if dtype == "F4" else shape
