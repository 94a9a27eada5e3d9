"""The entries of a zip file: where each one lies, whether it is deflated, and its CRC-32.

https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT. The zipfile module reads the directory.
No entry is unpacked here, and no name becomes a path.
"""

from __future__ import annotations

import itertools
import zipfile
import zlib
from typing import NamedTuple

from fastio.catalog import Readable
from fastio.display.values import shown
from fastio.errors import FormatError, ReadError
from fastio.formats.seekable import Seekable

SIGNATURE = b"PK\x03\x04"
DEFLATE_RATIO_MAX = 1032
"""zlib makes at most so many bytes of one: https://zlib.net/zlib_tech.html."""
# Of an entry: its signature, then the lengths of its name and its extra field at bytes 26 and 28.
_LOCAL_BYTES = 30
_ENCRYPTED = 0x1
# Stored bytes that are inflated at a time: zlib copies its leftovers.
_STEP_BYTES = 2**18


class Entry(NamedTuple):
    """One entry of a zip file.

    Attributes
    ----------
    name : str
    begin, end : int
        The extent of its stored bytes, from the start of the file.
    nbytes : int
        Of its content.
    is_deflated : bool
    crc : int
        CRC-32 of its content.
    """

    name: str
    begin: int
    end: int
    nbytes: int
    is_deflated: bool
    crc: int


class Deflated:
    """Bytes that are deflated: the content of an entry, without its first bytes.

    Parameters
    ----------
    entry : Entry
    skipped : int
        How many first bytes are left out: a header, say.
    """

    name = "deflate"

    def __init__(self, entry: Entry, skipped: int) -> None:
        self._entry = entry
        self._skipped = skipped

    def decode(self, stored: memoryview, out: memoryview) -> int:
        """Inflate, and compare the CRC-32.

        Raises
        ------
        ValueError, zlib.error
            Stored bytes that are cut off or damaged, or that come to another length.
        """
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        crc, at, whole = 0, -self._skipped, len(out)
        for begin in range(0, len(stored), _STEP_BYTES):
            data = inflater.decompress(stored[begin : begin + _STEP_BYTES], whole - at + 1)
            crc = zlib.crc32(data, crc)
            behind = max(at, 0)
            at += len(data)
            if at > whole:
                raise ValueError("more bytes come")
            if at > 0:
                out[behind:at] = memoryview(data)[len(data) - (at - behind) :]
        if not inflater.eof:
            raise ValueError("it is cut off")
        if inflater.unused_data:
            raise ValueError("bytes follow it")
        if crc != self._entry.crc:
            raise ValueError(f"its CRC-32 is {crc:08x}, and should be {self._entry.crc:08x}")
        return at


def inflated_first(file: Readable, entry: Entry, nbytes: int) -> bytes:
    """Return the first bytes of an entry's content, or all of them.

    Raises
    ------
    FormatError
        If they cannot be inflated.
    ReadError
    """
    if not entry.is_deflated:
        return file.read(entry.begin, min(nbytes, entry.end - entry.begin))
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    found, at = b"", entry.begin
    while len(found) < nbytes and at < entry.end and not inflater.eof:
        stored = file.read(at, min(nbytes, entry.end - at))
        at += len(stored)
        try:
            found += inflater.decompress(stored, nbytes - len(found))
        except zlib.error as error:
            problem = f"entry {shown(entry.name)} cannot be inflated: {error}"
            raise FormatError(file.path, problem, offset=entry.begin) from error
    return found


def content(file: Readable, entry: Entry, nbytes_max: int) -> bytes:
    """Return the content of an entry.

    Raises
    ------
    FormatError
        If it is damaged or longer than that.
    ReadError
    """
    if entry.nbytes > nbytes_max:
        problem = f"entry {shown(entry.name)} has {entry.nbytes} bytes"
        raise FormatError(file.path, problem, offset=entry.begin, expected=f"at most {nbytes_max}")
    data = inflated_first(file, entry, entry.nbytes)
    crc = zlib.crc32(data)
    if len(data) != entry.nbytes or crc != entry.crc:
        problem = f"entry {shown(entry.name)} has CRC-32 {crc:08x}"
        raise FormatError(file.path, problem, offset=entry.begin, expected=f"{entry.crc:08x}")
    return data


def entries(file: Readable) -> list[Entry]:
    """Return the entries of a zip file, in the order of their bytes; folders are left out.

    Raises
    ------
    FormatError
        If it is cut off or damaged, entries overlap or have one name, or one is encrypted or
        compressed by another method than deflate.
    ReadError
    """
    try:
        with zipfile.ZipFile(Seekable(file)) as directory:
            listed = [one for one in directory.infolist() if not one.is_dir()]
            directory_begin = directory.start_dir
    except ReadError:
        raise
    except Exception as error:  # zipfile.BadZipFile, and what its parsing of bad bytes raises
        problem = f"has no zip directory that can be read: {shown(str(error))}"
        expected = "a whole zip file; is this one cut off?"
        raise FormatError(file.path, problem, expected=expected) from error
    found = sorted(
        (_entry(file, one, directory_begin) for one in listed), key=lambda e: (e.begin, e.end)
    )
    for one, other in itertools.pairwise(found):
        if other.begin - _LOCAL_BYTES < one.end:
            problem = f"entry {shown(other.name)} overlaps {shown(one.name)}"
            raise FormatError(file.path, problem, offset=other.begin, expected="one after another")
    names = sorted(entry.name for entry in found)
    for name, other_name in itertools.pairwise(names):
        if name == other_name:
            raise FormatError(file.path, f"has two entries {shown(name)}", expected="one of a name")
    return found


def _entry(file: Readable, info: zipfile.ZipInfo, directory_begin: int) -> Entry:
    def refuse(problem: str, expected: str) -> FormatError:
        where = info.header_offset if 0 <= info.header_offset < file.nbytes else None
        text = f"entry {shown(info.filename)} {problem}"
        return FormatError(file.path, text, offset=where, expected=expected)

    if info.flag_bits & _ENCRYPTED:
        raise refuse("is encrypted", "entries without a password")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        method = zipfile.compressor_names.get(info.compress_type, "?")  # type: ignore[attr-defined]
        raise refuse(f"is compressed by {method} ({info.compress_type})", "deflate, or none")
    if not 0 <= info.header_offset <= directory_begin - _LOCAL_BYTES:
        raise refuse("begins outside the file", f"up to byte {directory_begin - _LOCAL_BYTES}")
    local = file.read(info.header_offset, _LOCAL_BYTES)
    if not local.startswith(SIGNATURE):
        raise refuse(f"begins with {local[:4]!r}", repr(SIGNATURE))
    lengths = int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
    begin = info.header_offset + _LOCAL_BYTES + lengths
    end = begin + info.compress_size
    if end > directory_begin:
        raise refuse(f"ends at byte {end}", f"at most {directory_begin}, where the directory is")
    is_deflated = info.compress_type == zipfile.ZIP_DEFLATED
    most = info.compress_size * (DEFLATE_RATIO_MAX if is_deflated else 1)
    if info.file_size > most or (not is_deflated and info.file_size != info.compress_size):
        raise refuse(
            f"has {info.file_size} bytes, stored in {info.compress_size}", f"{most} bytes at most"
        )
    return Entry(info.filename, begin, end, info.file_size, is_deflated, info.CRC)
