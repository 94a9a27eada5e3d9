"""NumPy's ``.npz`` files: a zip of ``.npy`` entries, stored or deflated.

https://numpy.org/doc/stable/reference/generated/numpy.savez.html. A stored array lies in the file
as it does in memory. A deflated one is inflated by zlib, and its CRC-32 is compared.
"""

from __future__ import annotations

from fastio.catalog import Readable, Shard
from fastio.catalog.encodings import Encoding, StoredPart
from fastio.display.values import shown
from fastio.errors import FormatError
from fastio.formats import npy, zipped
from fastio.formats.array_order import ArrayOrder, Reordered
from fastio.formats.rows import Row, shard_of

_ENDING = ".npy"


def locate(file: Readable, first: bytes) -> Shard:
    """Say where the arrays of a file lie.

    Parameters
    ----------
    file : Readable
        Stays open.
    first : bytes
        Its first bytes.

    Raises
    ------
    FormatError
        If the zip or an array is not valid, or an array has a dtype that no tensor has.
    ReadError
        If reading fails.
    """
    rows, headers = [], {}
    for entry in zipped.entries(file):
        if not entry.name.endswith(_ENDING):
            raise FormatError(
                file.path,
                f"has an entry {shown(entry.name)}",
                offset=entry.begin,
                expected="arrays alone, whose names end in .npy",
            )
        name = entry.name.removesuffix(_ENDING)
        raw = zipped.inflated_first(file, entry, npy.HEADER_BYTES_MAX)
        header = npy.parse(raw, file.path, name, entry.begin)
        if header.nbytes + header.data_bytes != entry.nbytes:
            raise FormatError(
                file.path,
                f"array {shown(name)} has {entry.nbytes - header.nbytes} bytes",
                offset=entry.begin,
                expected=f"{header.data_bytes}, by its dtype and shape",
            )
        headers[name] = header
        rows.append(_row(entry, header, name))
    return shard_of(file, rows, npy.metadata(headers), first)


def _row(entry: zipped.Entry, header: npy.Header, name: str) -> Row:
    if not entry.is_deflated:
        return npy.row_of(header, name, entry.begin + header.nbytes)
    encoding: Encoding = zipped.Deflated(entry, header.nbytes)
    if not header.is_raw:
        encoding = Reordered(encoding, ArrayOrder(header.stored, header.shape, header.turned))
    return Row(
        name,
        header.dtype,
        header.shape,
        entry.begin,
        entry.end,
        (StoredPart(entry.begin, entry.end, encoding),),
    )
