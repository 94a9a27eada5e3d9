"""Tables of checksums name their algorithm, and each algorithm that there is works in every way.

Builds for tests know a second one, whose digests have another length; wheels know one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import fastio
from fastio import _native
from fastio.catalog.table import DEFAULT_ALGORITHM, ChecksumTable
from fastio.dropin import in_memory
from fastio.formats import known
from fastio.saving import origins
from fastio.saving.writing import FileWriter, lay_out, open_file
from samples import expected_bytes

_CHUNK_BYTES = 1 << 16
_SHAPES = {"weight": (300, 700), "bias": (300,)}


class Sealed(NamedTuple):
    """A sealed file, its tensors, and what its checksums were taken with."""

    path: Path
    tensors: Mapping[str, np.ndarray[Any, Any]]
    algorithm: _native.Algorithm


@pytest.fixture(params=list(_native.ALGORITHMS.values()), ids=list(_native.ALGORITHMS))
def sealed(request: pytest.FixtureRequest, tmp_path: Path) -> Sealed:
    random = np.random.default_rng(7)
    tensors = {name: random.random(shape, np.float32) for name, shape in _SHAPES.items()}
    path = tmp_path / "model.safetensors"
    found = origins.in_file_order(origins.origins_of(tensors))
    layout = lay_out(found, path, None, chunk_bytes=_CHUNK_BYTES, algorithm=request.param)
    options = fastio.Options()
    writer = FileWriter(open_file(path, options, written_as=path), layout, options)
    try:
        writer.reserve()
        writer.begin()
        writer.write_data(durable=False, progress=None)
        writer.finish(durable=False)
        writer.replacement.link()
        writer.replacement.rename()
    finally:
        writer.close()
    return Sealed(path, tensors, request.param)


def _damage(sealed: Sealed) -> int:
    """Flip a bit of the last chunk but one; return where that begins."""
    table = known.locate(_native.File(sealed.path)).table
    assert table is not None
    offset = table.start + (table.chunks - 2) * table.chunk_bytes
    content = bytearray(sealed.path.read_bytes())
    content[offset + 11] ^= 4
    sealed.path.write_bytes(content)
    return offset


def test_the_default_is_xxh3_64() -> None:
    assert DEFAULT_ALGORITHM is _native.ALGORITHMS["xxh3_64"]
    assert next(iter(_native.ALGORITHMS)) == "xxh3_64"


def test_a_build_for_tests_has_a_second_algorithm() -> None:
    if not hasattr(_native, "testing"):
        pytest.skip("this build is not for tests (FASTIO_TESTING)")
    sizes = {each.digest_bytes for each in _native.ALGORITHMS.values()}
    assert "xxh3_128" in _native.ALGORITHMS
    assert len(sizes) > 1


def test_the_table_of_a_file_names_its_algorithm(sealed: Sealed) -> None:
    table = known.locate(_native.File(sealed.path)).table
    assert table is not None
    assert table.algorithm is sealed.algorithm
    data = sealed.path.read_bytes()[table.start :]
    assert table.digests == sealed.algorithm.digests(data, _CHUNK_BYTES)
    assert table.chunks == -(-len(data) // _CHUNK_BYTES)


def test_a_file_is_verified_by_its_algorithm_in_every_way(sealed: Sealed, engine: Any) -> None:
    for options in (
        fastio.Options(engine=engine, cache="bypass"),
        fastio.Options(engine=engine, cache="keep", mapping="never"),
        fastio.Options(engine=engine),
    ):
        report = fastio.Report()
        found = fastio.load(sealed.path, options=options, verify="require", report=report)
        assert report.chunks_verified > 0
        for name, tensor in sealed.tensors.items():
            assert np.array_equal(found[name], tensor)
    with fastio.open(sealed.path) as reader:
        assert np.array_equal(reader["weight"], sealed.tensors["weight"])
        assert np.array_equal(reader["weight"][17:19], sealed.tensors["weight"][17:19])
        assert {name for name, _ in reader.stream()} == set(sealed.tensors)
    places = {name: np.zeros_like(tensor) for name, tensor in sealed.tensors.items()}
    fastio.load_into(sealed.path, places)
    assert np.array_equal(places["bias"], sealed.tensors["bias"])
    assert fastio.verify(sealed.path).unverified == ()
    assert expected_bytes(sealed.path).keys() == sealed.tensors.keys()  # by the safetensors package


def test_damage_is_told_in_its_digests(sealed: Sealed) -> None:
    sound = sealed.path.read_bytes()
    offset = _damage(sealed)
    chunk = slice(offset, offset + _CHUNK_BYTES)
    expected = sealed.algorithm.text(sealed.algorithm.digests(sound[chunk], _CHUNK_BYTES))
    for read in (
        fastio.load,
        lambda path: fastio.load(path, options=fastio.Options(cache="bypass")),
        lambda path: list(fastio.open(path).stream()),
        lambda path: in_memory.deserialize(path.read_bytes()),
        lambda path: fastio.seal(path, path.with_name("sealed.safetensors")),
    ):
        with pytest.raises(fastio.ChecksumError) as caught:
            read(sealed.path)
        assert caught.value.offset == offset
        assert caught.value.expected == expected
        assert len(caught.value.found) == 2 * sealed.algorithm.digest_bytes
    (event,) = fastio.verify(sealed.path).damaged
    assert event.offset == offset


def test_a_table_finds_the_first_damage_of_bytes_in_memory(sealed: Sealed) -> None:
    table = known.locate(_native.File(sealed.path)).table
    assert table is not None
    assert table.holds(sealed.path.read_bytes()[table.start :], table.start)
    damaged = bytearray(sealed.path.read_bytes()[table.start :])
    damaged[-1] ^= 1
    assert not table.holds(damaged, table.start)
    found = table.first_damage(damaged, table.start)
    assert found is not None
    assert (found.chunk, found.nbytes) == (table.chunks - 1, len(damaged) % _CHUNK_BYTES)


def test_an_unknown_algorithm_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fastio.save({"weight": np.ones(3)}, tmp_path / "model.safetensors")
    monkeypatch.delitem(_native.ALGORITHMS, "xxh3_64")
    with pytest.raises(fastio.FormatError, match="its checksums are by 'xxh3_64'"):
        fastio.load(path)


def test_a_table_has_whole_digests() -> None:
    for algorithm in _native.ALGORITHMS.values():
        with pytest.raises(ValueError, match="length"):
            algorithm.text(b"1")
        with pytest.raises(ValueError, match="chunk_bytes"):
            algorithm.digests(b"1", 0)
        table = ChecksumTable(0, _CHUNK_BYTES, algorithm.digests(b"abc", _CHUNK_BYTES), algorithm)
        assert table.chunks == 1
