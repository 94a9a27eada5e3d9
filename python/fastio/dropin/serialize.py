"""Saving as safetensors does it: to the bytes that it would write, or to a sealed file.

A sealed file has the metadata as it was given.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from fastio.dropin.specs import TensorSpec, origins_of_specs
from fastio.formats import checksums
from fastio.options import Options
from fastio.saving.durability import is_durable
from fastio.saving.in_memory import file_in_memory
from fastio.saving.job import Request, run_now
from fastio.saving.origins import Origins, checked_metadata
from fastio.saving.target import file_target

_PATH = "<bytes>"


def serialize(
    tensor_dict: Mapping[str, TensorSpec], metadata: Mapping[str, str] | None = None
) -> bytes:
    """Return tensors, given as addresses, as the bytes of a safetensors file.

    Parameters
    ----------
    tensor_dict : mapping of str to TensorSpec
    metadata : mapping of str to str, optional
        Stored as given, without keys that begin with ``fastio.``.

    Returns
    -------
    bytes
        As from ``safetensors.serialize``, with the keys of the metadata sorted; without checksums.

    Raises
    ------
    TypeError
        An invalid argument.
    UsageError
        A name that cannot be written; a tensor whose number of bytes does not fit its dtype and
        shape.
    FormatError
        A header longer than the format allows.
    MemoryError
        There is no memory for the bytes.

    Examples
    --------
    >>> ones = np.ones(3, np.float32)
    >>> spec = fastio.TensorSpec(
    ...     dtype="float32", shape=[3], data_ptr=ones.ctypes.data, data_len=ones.nbytes
    ... )
    >>> fastio.numpy.load(fastio.serialize({"ones": spec}))
    {'ones': array([1., 1., 1.], dtype=float32)}
    """
    return as_bytes(origins_of_specs(tensor_dict), metadata)


def serialize_file(
    tensor_dict: Mapping[str, TensorSpec],
    filename: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Save tensors, given as addresses, as `fastio.save` does.

    Parameters
    ----------
    tensor_dict
        As `serialize` takes them.
    filename : str or os.PathLike
    metadata : mapping of str to str, optional
        Stored as given, without keys that begin with ``fastio.``. Default: ``format: pt``.

    Raises
    ------
    TypeError, UsageError, FormatError
        As `serialize` does.
    WriteError, MemoryLimitError
        As `fastio.save` does.

    Examples
    --------
    >>> ones = np.ones(3, np.float32)
    >>> spec = fastio.TensorSpec(
    ...     dtype="float32", shape=[3], data_ptr=ones.ctypes.data, data_len=ones.nbytes
    ... )
    >>> fastio.serialize_file({"ones": spec}, "ones.safetensors")
    >>> fastio.load("ones.safetensors")
    {'ones': array([1., 1., 1.], dtype=float32)}
    """
    to_file(origins_of_specs(tensor_dict), filename, metadata)


def as_bytes(origins: Origins, metadata: Mapping[str, str] | None) -> bytes:
    """Return tensors as the bytes of a safetensors file, as safetensors itself lays them out.

    Raises
    ------
    TypeError, UsageError, FormatError, MemoryError
        As `serialize` does.
    """
    return file_in_memory(origins.on_host(), _stored(metadata), _PATH)


def to_file(
    origins: Origins, filename: str | os.PathLike[str], metadata: Mapping[str, str] | None
) -> None:
    """Save tensors to one file, as `fastio.save` does; but add nothing to metadata that was given.

    Raises
    ------
    TypeError
        `filename` is no path; metadata that is not str to str.
    UsageError, FormatError, WriteError, MemoryLimitError
        As `fastio.save` does.
    ValueError
        If the variable ``FASTIO_DURABLE`` is no boolean.
    """
    if isinstance(filename, bytes):  # safetensors takes none
        raise TypeError("filename must be a str or os.PathLike, not bytes")
    run_now(
        Request(
            path=file_target(filename).path,
            origins=origins,
            order=origins.names,
            metadata=_stored(metadata),
            shard_bytes=None,
            chunk_bytes=checksums.CHUNK_BYTES_DEFAULT,
            durable=is_durable(),
            options=Options(),
            makes_folders=False,  # as safetensors
        )
    )


def _stored(metadata: Mapping[str, str] | None) -> dict[str, str] | None:
    """The metadata to write, in the same order in every run."""
    checked = checked_metadata(metadata)
    if checked is None:
        return None
    # Checksums read from a sealed file do not describe this one; alone, they are no metadata.
    users = dict(sorted(checksums.without_own_keys(checked).items()))
    return users if users or not checked else None
