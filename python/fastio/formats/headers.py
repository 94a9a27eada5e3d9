"""Headers of safetensors files, as they are written.

https://huggingface.co/docs/safetensors/index#format. Sealed ones are laid out by
`fastio.checksums`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from fastio.errors import FormatError
from fastio.formats.checksums import HEADER_BYTES_MAX, LENGTH_BYTES, START_ALIGNMENT

OWN_ALIGNMENT = 8
"""safetensors itself pads its headers to a multiple of it."""


class _Entry(msgspec.Struct, gc=False):  # nothing in it can refer back to it
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def tensor_entries(
    names: Sequence[str],
    dtypes: Sequence[str],
    shapes: Sequence[tuple[int, ...]],
    begins: npt.NDArray[np.int64],
    ends: npt.NDArray[np.int64],
) -> bytes:
    """Return a header's entries for tensors as compact JSON, without the braces around them.

    Parameters
    ----------
    names, dtypes : sequence of str
        In the order of their bytes.
    shapes : sequence of tuple of int
    begins, ends : (n,) int64
        In bytes, from the start of the data.

    Raises
    ------
    Nothing.
    """
    offsets = zip(begins.tolist(), ends.tolist(), strict=True)
    entries = map(_Entry, dtypes, shapes, offsets)  # no line of Python a tensor
    return msgspec.json.encode(dict(zip(names, entries, strict=True)))[1:-1]


def plain_header(
    metadata: Mapping[str, str] | None,
    tensors: bytes,
    path: str,
    *,
    alignment: int = START_ALIGNMENT,
) -> bytes:
    """Return a file up to the first byte of its data, without checksums.

    Parameters
    ----------
    metadata : mapping of str to str, optional
    tensors : bytes
        As `tensor_entries` returns them.
    path : str
        For messages.
    alignment : int
        The data begins at a multiple of it.

    Raises
    ------
    FormatError
        If it would be longer than the format allows.
    """
    own = b"" if metadata is None else b'"__metadata__":' + msgspec.json.encode(metadata)
    text = b"{" + own + (b"," if own and tensors else b"") + tensors + b"}"
    start = -(-(LENGTH_BYTES + len(text)) // alignment) * alignment
    if start - LENGTH_BYTES > HEADER_BYTES_MAX:
        raise FormatError(
            path,
            f"its header would come to {start - LENGTH_BYTES} bytes",
            expected=f"at most {HEADER_BYTES_MAX}: spread its tensors over several files",
        )
    length = (start - LENGTH_BYTES).to_bytes(LENGTH_BYTES, "little")
    return length + text.ljust(start - LENGTH_BYTES)
