"""The format of a sealed file, computed by a second implementation; and every unsound table."""

import base64
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import fastio
from fastio import _native
from fastio.formats import checksums
from samples import (
    CHUNK_BYTES,
    data_start,
    expected_bytes,
    flip,
    same_bytes,
    write,
    write_even,
    write_model,
)

_DIGEST = slice(42, 58)
_KEYS = ["fastio.header", "fastio.version", "fastio.checksums"]


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    # Five chunks: their checksums end with padding in base64.
    return fastio.seal(write_even(tmp_path / "model.safetensors", 5, CHUNK_BYTES))


def _header(path: Path) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(path.read_bytes()[8 : data_start(path)])
    return decoded


@pytest.mark.parametrize(
    ("data", "digest"),
    [
        (b"", 0x2D06800538D394C2),  # xxhash's own sanity checks have these
        (b"a", 0xE6C632B61E964E1F),
        (b"abc", 0x78AF5F94892F3950),
    ],
)
def test_xxh3_64_is_the_published_one(data: bytes, digest: int) -> None:
    assert _native.xxh3_64(data) == digest


@pytest.mark.parametrize(
    ("nbytes", "digest"),
    [
        (1, 0xC44BDFF4074EECDB),  # each length takes another way through XXH3
        (8, 0x3A1C2D7C85AF88F8),
        (16, 0x8355E3A6F61770DB),
        (17, 0x9EF341A99DE37328),
        (128, 0x85C6174C7FF4C46B),
        (129, 0xEC7642B431BA3E5A),
        (240, 0x375A384D957FE865),
        (241, 0x02E8CD95421C6D02),
        (1025, 0xE95C42288F28186E),
        (65536, 0xAAAE63800707A868),
        (2**20 + 1, 0x47A84C196FD973DF),
    ],
)
def test_xxh3_64_is_the_published_one_at_every_length(nbytes: int, digest: int) -> None:
    # From the package xxhash 4.1.0 (PyPI).
    data = (bytes(range(251)) * (nbytes // 251 + 1))[:nbytes]
    assert _native.xxh3_64(data) == digest
    assert _native.xxh3_64(b"?" + data) != digest
    assert _native.xxh3_64(memoryview(b"?" + data)[1:]) == digest  # at any address


def test_chunks_are_hashed_one_by_one() -> None:
    data = np.random.default_rng(1).bytes(200_001)
    chunks = [data[at : at + 65536] for at in range(0, len(data), 65536)]
    expected = b"".join(_native.xxh3_64(chunk).to_bytes(8, "little") for chunk in chunks)
    algorithm = _native.ALGORITHMS["xxh3_64"]
    assert algorithm.digests(data, 65536) == expected
    assert algorithm.digests(b"", 65536) == b""


def test_a_sealed_file_is_written_as_the_format_says(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "b": np.arange(300_000, dtype=np.float32),
        "ä": np.ones(3, np.int8),
    }
    save_file(arrays, path, {"zeta": "1", "format": "np", "über": "é"})
    fastio.seal(path)
    content, start = path.read_bytes(), data_start(path)
    header = content[:start]

    assert start % 4096 == 0
    assert header[8:42] == b'{"__metadata__":{"fastio.header":"'
    blank = header[:42] + b"0" * 16 + header[58:]
    assert header[_DIGEST] == f"{_native.xxh3_64(blank):016x}".encode()

    decoded = json.loads(header[8:])
    assert list(decoded) == ["__metadata__", "b", "ä"]
    assert list(decoded["b"]) == ["dtype", "shape", "data_offsets"]
    metadata = decoded["__metadata__"]
    assert list(metadata) == [*_KEYS, "format", "zeta", "über"]
    assert metadata["fastio.version"] == "1"
    compact = json.dumps(decoded, separators=(",", ":"), ensure_ascii=False).encode()
    assert header[8:] == compact.ljust(start - 8)
    assert len(header) - 8 - len(compact) < 4096

    data = content[start:]
    digests = b"".join(
        _native.xxh3_64(data[at : at + 2**20]).to_bytes(8, "little")
        for at in range(0, len(data), 2**20)
    )
    table = {
        "algorithm": "xxh3_64",
        "start": start,
        "chunk_bytes": 2**20,
        "chunks": base64.b64encode(digests).decode(),
    }
    assert metadata["fastio.checksums"] == json.dumps(table, separators=(",", ":"))
    assert {name: array.tobytes() for name, array in load_file(path).items()} == {
        name: array.tobytes() for name, array in arrays.items()
    }


def _sealed_by_hand(
    data: bytes, chunk_bytes: int, *, alignment: int = 4096, users: dict[str, str] | None = None
) -> bytes:
    """A sealed file of one tensor, made from the text of the format alone."""
    digests = b"".join(
        _native.xxh3_64(data[at : at + chunk_bytes]).to_bytes(8, "little")
        for at in range(0, len(data), chunk_bytes)
    )
    start, padded = -1, 0
    text = b""
    while start != padded:
        start = padded
        table = (
            f'{{"algorithm":"xxh3_64","start":{start},"chunk_bytes":{chunk_bytes},'
            f'"chunks":"{base64.b64encode(digests).decode()}"}}'
        )
        own = {"fastio.header": "0" * 16, "fastio.version": "1", "fastio.checksums": table}
        entry = {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}
        decoded = {"__metadata__": {**own, **(users or {})}, "w": entry}
        text = json.dumps(decoded, separators=(",", ":"), ensure_ascii=False).encode()
        padded = -(-(8 + len(text)) // alignment) * alignment
    return _resign(struct.pack("<Q", start - 8) + text.ljust(start - 8)) + data


@pytest.mark.parametrize("chunk_bytes", [2**size for size in range(16, 25)])
def test_chunks_of_every_size_are_verified(tmp_path: Path, chunk_bytes: int) -> None:
    data = np.random.default_rng(chunk_bytes).bytes(2**24 + 2**17 + 5)
    path = tmp_path / "model.safetensors"
    path.write_bytes(_sealed_by_hand(data, chunk_bytes))
    report = fastio.Report()
    assert fastio.load(path, verify="require", report=report)["w"].tobytes() == data
    assert report.chunks_verified == -(-len(data) // chunk_bytes)
    # seal verifies them too, and writes its own.
    copy = fastio.seal(path, tmp_path / "copy.safetensors")
    assert fastio.load(copy, verify="require")["w"].tobytes() == data
    start, chunk = data_start(path), len(data) // chunk_bytes
    flip(path, path.stat().st_size - 1)
    for damaged in (lambda: fastio.load(path), lambda: fastio.seal(path, copy)):
        with pytest.raises(fastio.ChecksumError) as raised:
            damaged()
        error = raised.value
        assert (error.chunk, error.offset) == (chunk, start + chunk * chunk_bytes)
        assert error.nbytes == len(data) - chunk * chunk_bytes


def test_seal_writes_the_format_as_documented(tmp_path: Path) -> None:
    data = np.random.default_rng(1).bytes(3 * 2**20 + 1)
    path = tmp_path / "model.safetensors"
    save_file({"w": np.frombuffer(data, np.uint8)}, path, {"b": "ü", "a": '"'})
    by_hand = _sealed_by_hand(data, 2**20, users={"a": '"', "b": "ü"})
    assert fastio.seal(path).read_bytes() == by_hand


@pytest.mark.parametrize("alignment", [8, 512, 2048])
def test_data_that_does_not_start_at_a_page_is_no_sealed_file(
    tmp_path: Path, alignment: int
) -> None:
    content = _sealed_by_hand(b"x" * 100, 2**20, alignment=alignment)
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert data_start(path) % 4096 != 0
    report = fastio.Report()
    assert fastio.load(path, report=report)["w"].tobytes() == b"x" * 100
    assert report.unverified == (str(path),)
    with pytest.raises(fastio.FormatError, match="copied from a sealed file"):
        fastio.load(path, verify="require")


def test_a_file_without_data_has_a_table_without_checksums(tmp_path: Path) -> None:
    path = write(tmp_path / "model.safetensors", {"e": ("F32", (0, 3))})
    metadata = _header(fastio.seal(path))["__metadata__"]
    assert json.loads(metadata["fastio.checksums"])["chunks"] == ""
    assert path.stat().st_size == data_start(path) == 4096
    assert list(fastio.load(path, verify="require")) == ["e"]


def _resign(header: bytes) -> bytes:
    """The header with a correct digest, so that the change in it is its only fault."""
    blank = header[:42] + b"0" * 16 + header[58:]
    return header[:42] + f"{_native.xxh3_64(blank):016x}".encode() + header[58:]


def _rewrite(path: Path, change: Callable[[dict[str, str]], None]) -> None:
    """Change the metadata of a sealed file, keep its data, and sign it again."""
    content, start = path.read_bytes(), data_start(path)
    decoded = json.loads(content[8:start])
    change(decoded["__metadata__"])
    text = json.dumps(decoded, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(start - 8)  # the same start wherever it still fits
    assert len(text) == start - 8
    header = struct.pack("<Q", len(text)) + text
    signed = _resign(header) if header[8:42] == content[8:42] else header
    path.write_bytes(signed + content[start:])


def _in_table(**fields: Any) -> Callable[[dict[str, str]], None]:
    def change(metadata: dict[str, str]) -> None:
        table = {**json.loads(metadata["fastio.checksums"]), **fields}
        metadata["fastio.checksums"] = json.dumps(
            {k: v for k, v in table.items() if v is not None}, separators=(",", ":")
        )

    return change


def _in_chunks(change: Callable[[str], str]) -> Callable[[dict[str, str]], None]:
    return lambda metadata: _in_table(
        chunks=change(json.loads(metadata["fastio.checksums"])["chunks"])
    )(metadata)


def _without(*keys: str) -> Callable[[dict[str, str]], None]:
    def change(metadata: dict[str, str]) -> None:
        for key in keys:
            del metadata[key]

    return change


def _with(**values: str) -> Callable[[dict[str, str]], None]:
    return lambda metadata: metadata.update({f"fastio.{k}": v for k, v in values.items()})


def _in_turn(*changes: Callable[[dict[str, str]], None]) -> Callable[[dict[str, str]], None]:
    def change(metadata: dict[str, str]) -> None:
        for each in changes:
            each(metadata)

    return change


def _stray_bits(chunks: str) -> str:
    """Another last digit that a lax decoder turns into the same bytes."""
    digits = chunks.rstrip("=")
    assert digits != chunks
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    return digits[:-1] + alphabet[alphabet.index(digits[-1]) + 1] + chunks[len(digits) :]


def _reversed(table: str) -> str:
    fields = dict(reversed(json.loads(table).items()))
    return json.dumps(fields, separators=(",", ":"))


_UNSOUND: dict[str, tuple[Callable[[dict[str, str]], None], str]] = {
    "one checksum too few": (_in_chunks(lambda c: c[: -12 - 12]), "bytes of checksums"),
    "one checksum too many": (
        _in_chunks(lambda c: base64.b64encode(base64.b64decode(c) + bytes(8)).decode()),
        "bytes of checksums",
    ),
    "no checksums": (_in_chunks(lambda _: ""), "0 bytes of checksums"),
    "bad base64": (_in_chunks(lambda c: "*" + c[1:]), "cannot be read"),
    "base64 without its padding": (_in_chunks(lambda c: c.rstrip("=")), "cannot be read"),
    "base64 with a space": (_in_chunks(lambda c: c[:8] + " " + c[8:]), "cannot be read"),
    "base64 with stray bits": (_in_chunks(_stray_bits), "not written as it should be"),
    "base64 of URLs": (_in_chunks(lambda c: "-_" + c[2:]), "cannot be read"),
    "base64 with a newline behind": (_in_chunks(lambda c: c + "\n"), "cannot be read"),
    "checksums that are a list": (_in_table(chunks=[1, 2]), "cannot be read"),
    "a table that is null": (_with(checksums="null"), "cannot be read"),
    "unknown algorithm": (_in_table(algorithm="crc32c"), "'crc32c'"),
    "an algorithm in upper case": (_in_table(algorithm="XXH3_64"), "'XXH3_64'"),
    "no algorithm": (_in_table(algorithm=None), "cannot be read"),
    "a field too many": (_in_table(more=1), "cannot be read"),
    "start elsewhere": (_in_table(start=8192 + 4096), "start at"),
    "start of a wrong type": (_in_table(start="4096"), "cannot be read"),
    "start before the file": (_in_table(start=-4096), "start at"),
    "start beyond 64 bits": (_in_table(start=2**70), ""),
    "start of another page": (_in_table(start=0), "start at"),
    "start beside a page": (_in_table(start=4104), "start at"),
    "chunks of less than no bytes": (_in_table(chunk_bytes=-(2**20)), "-1048576 bytes"),
    "chunks of a fraction": (_in_table(chunk_bytes=2.0**20), "cannot be read"),
    "chunks of 0 bytes": (_in_table(chunk_bytes=0), "0 bytes"),
    "chunks of 32 KiB": (_in_table(chunk_bytes=2**15), "32768 bytes"),
    "chunks of 32 MiB": (_in_table(chunk_bytes=2**25), "33554432 bytes"),
    "chunks of no power of two": (_in_table(chunk_bytes=2**20 + 4096), "1052672 bytes"),
    "other chunks than were hashed": (_in_table(chunk_bytes=2**19), "bytes of checksums"),
    "spaces in the table": (
        lambda m: m.update({"fastio.checksums": m["fastio.checksums"].replace(",", ", ", 1)}),
        "not written as it should be",
    ),
    "fields in another order": (
        lambda m: m.update({"fastio.checksums": _reversed(m["fastio.checksums"])}),
        "not written as it should be",
    ),
    "a field twice": (
        lambda m: m.update(
            {"fastio.checksums": m["fastio.checksums"].replace("{", '{"algorithm":"xxh3_64",')}
        ),
        "not written as it should be",
    ),
    "no JSON": (_with(checksums="xxh3"), "cannot be read"),
    "unknown version": (_with(version="2"), "version '2'"),
    "version 1.0": (_with(version="1.0"), "version '1.0'"),
    "an empty version": (_with(version=""), "version ''"),
    "an unknown version alone": (
        _in_turn(_without(*_KEYS), _with(version="2")),
        "version '2'",
    ),
    "a table alone": (_without("fastio.header", "fastio.version"), "lacks fastio.header"),
    "no table beside a version": (_without("fastio.checksums"), "lacks fastio.checksums"),
    "no version": (_without("fastio.version"), "lacks fastio.version"),
    "no digest": (_without("fastio.header"), "lacks fastio.header"),
    "a version alone": (_without("fastio.checksums", "fastio.header"), "lacks"),
    "an unknown key": (_with(signature="x"), "unknown 'fastio.signature'"),
}


@pytest.mark.parametrize("verify", [True, "require"])
@pytest.mark.parametrize("what", _UNSOUND)
def test_an_unsound_table_is_refused(sealed: Path, what: str, verify: Any) -> None:
    change, words = _UNSOUND[what]
    _rewrite(sealed, change)
    with pytest.raises(fastio.FormatError) as raised:
        fastio.load(sealed, verify=verify)
    error = raised.value
    for said in (
        str(sealed),
        words,
        "damaged",
        "copied from another",
        "force=True",
        "verify=False",
    ):
        assert said in str(error)
    assert error.offset is not None
    assert sealed.read_bytes()[error.offset :].startswith(b'"fastio.')
    assert (error.expected or "").split(";")[0]


@pytest.mark.parametrize("what", _UNSOUND)
def test_an_unsound_table_is_harmless_without_verification(
    sealed: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    expected = expected_bytes(sealed)
    change, words = _UNSOUND[what]
    _rewrite(sealed, change)
    report = fastio.Report()
    assert same_bytes(fastio.load(sealed, verify=False, report=report), expected)
    assert (report.unverified, report.chunks_verified) == ((str(sealed),), 0)
    (told,) = caplog.messages
    for said in (str(sealed), words, "unverified", "force=True"):
        assert said in told


def test_own_keys_in_another_place_are_no_sealed_header(sealed: Path) -> None:
    def move(metadata: dict[str, str]) -> None:
        metadata["fastio.header"] = metadata.pop("fastio.header")

    _rewrite(sealed, move)
    with pytest.raises(fastio.FormatError, match="does not start as a sealed one") as raised:
        fastio.load(sealed)
    assert raised.value.offset == 8


def test_a_changed_header_is_refused_though_it_is_valid(sealed: Path) -> None:
    content = sealed.read_bytes()
    assert content.count(b'"t3"') == 1
    sealed.write_bytes(content.replace(b'"t3"', b'"T3"'))
    with pytest.raises(fastio.FormatError, match="checksum of its header"):
        fastio.load(sealed)
    assert "T3" in fastio.load(sealed, verify=False)


def test_a_digest_is_compared_as_text(sealed: Path) -> None:
    content = bytearray(sealed.read_bytes())
    digits = bytes(content[_DIGEST])
    assert digits.upper() != digits, "a digest of sixteen decimal digits: change the sample"
    content[_DIGEST] = digits.upper()
    sealed.write_bytes(content)
    with pytest.raises(fastio.FormatError, match="checksum of its header") as raised:
        fastio.load(sealed)
    assert raised.value.offset == 42


def test_a_file_without_own_keys_has_no_table(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.safetensors")
    report = fastio.Report()
    assert same_bytes(fastio.load(path, report=report), expected_bytes(path))
    assert report.unverified == (str(path),)


def test_chunks_grow_before_a_header_passes_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    plans = {}
    for limit in (100_000_000, 100_000, 20_000, 12_000):
        monkeypatch.setattr(checksums, "HEADER_BYTES_MAX", limit)
        plan = checksums.plan_header({"format": "pt"}, b'"w":{}', 2**30, "m")
        plans[limit] = plan.chunk_bytes
        assert plan.start - 8 <= limit
    assert plans == {100_000_000: 2**20, 100_000: 2**20, 20_000: 2**20, 12_000: 2**21}
    monkeypatch.setattr(checksums, "HEADER_BYTES_MAX", 4000)
    with pytest.raises(fastio.FormatError, match="several files"):
        checksums.plan_header({}, b'"w":{}', 2**40, "m")


def test_a_header_of_another_size_than_planned_is_never_written() -> None:
    plan = checksums.plan_header({}, b'"w":{}', 2**32, "m")
    with pytest.raises(ValueError, match="do not fit"):
        plan.encode(bytes(8))


@pytest.mark.parametrize("size", [*range(3000, 3030), 7000, 70_000])
def test_the_start_is_a_fixpoint_at_every_length(size: int) -> None:
    plan = checksums.plan_header({"padding": "x" * size}, b"", 10, "m")
    header = plan.encode(bytes(8))
    assert len(header) == plan.start
    assert plan.start % 4096 == 0
    table = json.loads(json.loads(header[8:])["__metadata__"]["fastio.checksums"])
    assert table["start"] == plan.start
