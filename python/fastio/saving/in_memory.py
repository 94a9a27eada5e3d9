"""A file that is made in memory, and never written: the bytes that safetensors itself returns."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping

import fastio._native as _native
from fastio.formats import headers
from fastio.host.shortage import memory_named
from fastio.saving.origins import Origins


def file_in_memory(origins: Origins, metadata: Mapping[str, str] | None, name: str) -> bytes:
    """Return tensors as the bytes of a file without checksums.

    Parameters
    ----------
    origins : Origins
        In the order of the file, on the host.
    metadata : mapping of str to str or None
    name : str
        What messages call the file.

    Raises
    ------
    FormatError
        A header longer than the format allows.
    MemoryError
        There is no memory for the bytes.
    """
    header = headers.plain_header(
        metadata, origins.entries(), name, alignment=headers.OWN_ALIGNMENT
    )
    # Unlike a bytearray, a BytesIO gives its bytes away without a copy.
    file = io.BytesIO()
    with memory_named(name, lambda: f"{len(header) + origins.data_bytes} bytes"):
        file.write(header)
        if origins.data_bytes:
            file.seek(origins.data_bytes - 1, os.SEEK_CUR)
            file.write(b"\0")
            with file.getbuffer() as whole, whole[len(header) :] as data:
                _native.gather(origins.addresses, origins.bounds(0), origins.layouts, data)
        return file.getvalue()
