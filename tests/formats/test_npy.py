"""NumPy's files: orders, texts, dates, and what is refused by name."""

import io
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import fastio

_RANDOM = np.random.default_rng(1)


def _same(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> bool:
    return (
        found.dtype == expected.dtype
        and found.shape == expected.shape
        and found.tobytes() == np.ascontiguousarray(expected).tobytes()
    )


def _saved(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


_ORDERED: dict[str, npt.NDArray[Any]] = {
    "Fortran order": np.asfortranarray(_RANDOM.random((300, 70, 100))),
    "several parts": np.asfortranarray(_RANDOM.random((1000, 1500))),
    "big-endian": _RANDOM.integers(0, 99, (40, 3)).astype(">i4"),
    "big-endian scalar": np.array(7, ">i8"),
    "both": np.asfortranarray(_RANDOM.integers(0, 99, (40, 3, 5)).astype(">i2")),
    "complex, big-endian": (_RANDOM.random(9) + 2j).astype(">c8"),
    "empty": np.zeros((0, 5)),
    "a column": np.asfortranarray(np.ones((5, 1, 1))),
}


@pytest.mark.parametrize("case", list(_ORDERED))
@pytest.mark.parametrize("ending", [".npy", ".npz", "deflated.npz"])
def test_arrays_in_other_orders_come_in_that_of_memory(
    tmp_path: Path, case: str, ending: str
) -> None:
    array = _ORDERED[case]
    path = tmp_path / f"w{ending}"
    if ending == ".npy":
        np.save(path, array)
    else:
        (np.savez if ending == ".npz" else np.savez_compressed)(path, w=array)
    expected = array.astype(array.dtype.newbyteorder("="))
    assert _same(fastio.load(path)["w"], expected)
    with fastio.open(path) as reader:
        if array.ndim > 1:
            assert np.array_equal(reader["w"][:, :1], expected[:, :1])
            assert np.array_equal(reader["w"][-3::2], expected[-3::2])


def test_a_slice_of_an_array_in_fortran_order_reads_only_the_parts_it_needs(tmp_path: Path) -> None:
    array = np.asfortranarray(_RANDOM.random((1000, 3000)))  # 24 MB, in parts of 4
    np.save(tmp_path / "w.npy", array)
    with fastio.open(tmp_path / "w.npy") as reader:
        assert np.array_equal(reader["w"][:, 1000:1010], array[:, 1000:1010])
        (decoded,) = reader.report.decoded
    assert decoded.encoding == "Fortran order"
    assert decoded.stored_bytes == 524 * 8000


def test_texts_and_dates_come_as_numbers_and_the_metadata_say_what_they_were(
    tmp_path: Path,
) -> None:
    path = tmp_path / "m.npz"
    texts = np.array([["a", "bcd"], ["", "é"]])
    arrays = {
        "bytes": np.array([b"ab", b"c"]),
        "text": texts,
        "fortran": np.asfortranarray(texts),
        "swapped": texts.astype(">U3"),
        "dates": np.array(["2020-01-01", "NaT"], "M8[D]"),
        "spans": np.array([5], "m8[s]"),
        "plain": np.zeros(2),
    }
    np.savez(path, **arrays)  # type: ignore[arg-type]
    loaded = fastio.load(path)
    assert loaded["bytes"].tolist() == [[97, 98], [99, 0]]
    codes = texts.view(np.uint32).reshape(2, 2, 3)
    for name in ("text", "fortran", "swapped"):
        assert _same(loaded[name], codes)
    assert _same(loaded["dates"], arrays["dates"].view(np.int64))
    assert _same(loaded["spans"], np.array([5]))
    with fastio.open(path) as reader:
        assert dict(reader.metadata) == {
            "numpy.dtypes": '{"bytes": "|S2", "text": "<U3", "fortran": "<U3", "swapped": ">U3", '
            '"dates": "<M8[D]", "spans": "<m8[s]"}'
        }


def _with_header(text: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


_REFUSED: dict[str, tuple[bytes, str]] = {
    "objects": (_saved(np.array([{}, None], object)), r"'w' has Python objects.*may run code"),
    "fields": (_saved(np.zeros(3, [("a", "f4")])), r"'w' has the dtype .*which no tensor has"),
    "complex128": (_saved(np.zeros(3, complex)), "'w' has the dtype 'complex128'"),
    "longdouble": (_saved(np.zeros(3, np.longdouble)), "which no tensor has"),
    "two arrays": (_saved(np.zeros(3)) * 2, "has 152 bytes behind its array.*numpy.load reads"),
    "no header": (b"\x93NUMPY\x01\x00", "a header that numpy refuses"),
    "version": (b"\x93NUMPY\x09\x00" + bytes(100), "a header that numpy refuses"),
    "code": (
        _with_header(b"{'descr': __import__('os').system('false'), 'shape': (), 'x': 1}"),
        "a header that numpy refuses",
    ),
    "negative": (
        _with_header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -1)}"),
        r"shape \[-1, -1\].*from 0 on",
    ),
    "arrays as values": (
        _with_header(b"{'descr': ('|i1', (2,)), 'fortran_order': False, 'shape': (1,)}") + b"ab",
        "arrays as its values",
    ),
    "huge": (
        _with_header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (0, 2**70)}"),
        "a header that numpy refuses",
    ),
    "huge and empty": (
        _with_header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (0, %d)}" % 2**60),
        r"2\*\*56 values",
    ),
    "cut off": (_saved(np.zeros(300))[:-1], "cut off"),
}


@pytest.mark.parametrize("case", list(_REFUSED))
def test_what_is_no_tensor_is_refused_by_name(tmp_path: Path, case: str) -> None:
    data, words = _REFUSED[case]
    path = tmp_path / "w.npy"
    path.write_bytes(data)
    with pytest.raises(fastio.FormatError, match=words) as raised:
        fastio.load(path)
    assert raised.value.path == str(path)


# ---- the zip


def _zipped(*entries: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return file.getvalue()


def _patched(data: bytes, *changes: tuple[bytes, int, bytes]) -> bytes:
    """Data with bytes changed, each at a distance from the last place of some mark."""
    changed = bytearray(data)
    for mark, distance, new in changes:
        at = changed.rindex(mark) + distance
        changed[at : at + len(new)] = new
    return bytes(changed)


_ARRAY = _saved(np.arange(1000))
_ONE = _zipped(("a.npy", _ARRAY))
_TWO = _zipped(("a.npy", _ARRAY), ("b.npy", _ARRAY))
_DIRECTORY = b"PK\x01\x02"  # of an entry: flags at 8, method at 10, sizes at 20 and 24, place at 42
_BAD_ZIPS: dict[str, tuple[bytes, str]] = {
    "another entry": (
        _zipped(("a.npy", _ARRAY), ("readme.txt", b"x")),
        "'readme.txt'.*end in .npy",
    ),
    "bzip2": (_zipped(("a.npy", _ARRAY), method=zipfile.ZIP_BZIP2), "compressed by bzip2"),
    "lzma": (_zipped(("a.npy", _ARRAY), method=zipfile.ZIP_LZMA), "compressed by lzma"),
    "encrypted": (_patched(_ONE, (_DIRECTORY, 8, b"\1\0")), "'a.npy' is encrypted"),
    "overlap": (_patched(_TWO, (_DIRECTORY, 42, bytes(4))), "overlaps 'a.npy'"),
    "place": (_patched(_ONE, (_DIRECTORY, 42, b"\7\0\0\0")), "begins with"),
    "sizes": (_patched(_ONE, (_DIRECTORY, 24, b"\xff\xff\xff\x7f")), "bytes at most"),
    "too long": (_patched(_ONE, (_DIRECTORY, 20, b"\0\0\1\0" * 2)), "where the directory is"),
    "no directory": (_ONE[:-30], "no zip directory"),
    "lengths": (_zipped(("a.npy", _ARRAY + b"x")), r"'a' has 8001 bytes.*8000, by its dtype"),
}


@pytest.mark.parametrize("case", list(_BAD_ZIPS))
def test_a_bad_zip_is_refused(tmp_path: Path, case: str) -> None:
    data, words = _BAD_ZIPS[case]
    path = tmp_path / "m.npz"
    path.write_bytes(data)
    with pytest.raises(fastio.FormatError, match=words) as raised:
        fastio.load(path)
    assert raised.value.path == str(path)


def test_two_entries_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    path.write_bytes(_TWO.replace(b"b.npy", b"a.npy"))
    with pytest.raises(fastio.FormatError, match=r"two entries 'a\.npy'"):
        fastio.load(path)


def test_a_deflated_array_is_compared_with_its_crc(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    np.savez_compressed(path, a=np.arange(100_000), b=np.ones(9))
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        crc = archive.getinfo("a.npy").CRC.to_bytes(4, "little")
    path.write_bytes(data.replace(crc, bytes(4)))
    with fastio.open(path) as reader:
        assert np.array_equal(reader.tensor("b"), np.ones(9))
        with pytest.raises(fastio.FormatError, match=r"'a' cannot be decoded: .*CRC-32"):
            reader.tensor("a")


def test_a_bomb_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    # 10 MB of zeros are deflated to 10 kB; the entry says that it has a terabyte.
    path = tmp_path / "m.npz"
    header = _with_header(b"{'descr': '|u1', 'fortran_order': False, 'shape': (%d,), }\n" % 2**40)
    packed = zlib.compressobj(wbits=-15)
    stored = packed.compress(header + bytes(10**7)) + packed.flush()
    data = _zipped(("a.npy", stored))
    sizes = (len(stored)).to_bytes(4, "little") + (2**32 - 2).to_bytes(4, "little")
    path.write_bytes(_patched(data, (_DIRECTORY, 10, b"\x08\0"), (_DIRECTORY, 20, sizes)))
    with pytest.raises(fastio.FormatError, match=r"4294967294 bytes, stored in .*bytes at most"):
        fastio.load(path)
