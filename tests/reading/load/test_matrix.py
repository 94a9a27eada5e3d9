"""Every engine, cache mode and mapping, cold and warm, on each filesystem: right and reported."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import fastio
import testbed
from samples import (
    CHUNK_BYTES,
    chunk_count,
    data_start,
    eventually,
    expected_bytes,
    same_bytes,
    write_model,
)

_ENGINES = ["uring", "pread"]
_PAGE_BYTES = 4096
# The most that the readahead of a header brings into the page cache.
_HEADER_TRACE_BYTES = 512 << 10

pytestmark = pytest.mark.root


class _Model(NamedTuple):
    path: Path
    sealed: bool
    expected: dict[str, bytes]

    @property
    def tensor_bytes(self) -> int:
        return sum(map(len, self.expected.values()))

    @property
    def chunks(self) -> int:
        return chunk_count(self.path) if self.sealed else 0


@pytest.fixture(scope="module", params=["ext4", "xfs", "tmpfs"])
def mount(request: pytest.FixtureRequest) -> testbed.Mount:
    found: testbed.Mount = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def models(mount: testbed.Mount) -> dict[bool, _Model]:
    """The same model sealed and unsealed, by that."""
    folder = mount.path / "matrix"
    folder.mkdir()
    plain = write_model(folder / "plain.safetensors")
    expected = expected_bytes(plain)
    sealed = fastio.seal(plain, folder / "sealed.safetensors")
    return {False: _Model(plain, False, expected), True: _Model(sealed, True, expected)}


@pytest.fixture(params=[True, False], ids=["sealed", "unsealed"])
def model(request: pytest.FixtureRequest, models: dict[bool, _Model]) -> _Model:
    return models[request.param]


@contextlib.contextmanager
def _held(path: Path, temperature: str, kind: str) -> Iterator[None]:
    """Bring a file into the page cache and lock it there, or evict it."""
    if temperature == "warm":
        with testbed.kept_warm(path):
            yield
        return
    if kind != "tmpfs":
        testbed.evict(path)
        assert testbed.resident_bytes(path) == 0
    yield


@pytest.fixture
def temperature(
    request: pytest.FixtureRequest, mount: testbed.Mount, model: _Model
) -> Iterator[str]:
    if request.param == "cold" and mount.kind == "tmpfs":
        pytest.skip("a tmpfs keeps its files in memory only")
    with _held(model.path, request.param, mount.kind):
        yield request.param


def _expected_engine(engine: str, cache: str, mapping: str, kind: str, temperature: str) -> str:
    bypassed = cache == "bypass" and kind != "tmpfs"
    brought_in = mapping == "always" or (mapping == "auto" and cache == "keep")
    mapped = brought_in or (mapping == "auto" and temperature == "warm")
    return "mmap" if mapped and not bypassed else engine


@pytest.mark.parametrize("mapping", ["auto", "always", "never"])
@pytest.mark.parametrize("temperature", ["cold", "warm"], indirect=True)
@pytest.mark.parametrize("cache", ["auto", "bypass", "keep"])
@pytest.mark.parametrize("engine", _ENGINES)
def test_the_bytes_are_right_and_the_report_says_how_they_came(
    mount: testbed.Mount, model: _Model, engine: Any, cache: Any, temperature: str, mapping: Any
) -> None:
    report = fastio.Report()
    options = fastio.Options(engine=engine, cache=cache, mapping=mapping)
    tensors = fastio.load(model.path, options=options, report=report)
    assert same_bytes(tensors, model.expected)

    by = _expected_engine(engine, cache, mapping, mount.kind, temperature)
    assert report.engine == by
    assert report.engine_reason
    assert report.cache == temperature
    assert report.cache_reason
    assert report.fallbacks == ()
    assert (report.tensors, report.files) == (len(model.expected), 1)
    assert report.nbytes == model.tensor_bytes
    assert report.chunks_verified == model.chunks
    assert report.unverified == (() if model.sealed else (str(model.path),))

    # Each byte of the data is read once. A file whose chunks begin off a page adds the page before.
    read_max = model.tensor_bytes + (0 if model.sealed else _PAGE_BYTES)
    if by == "mmap":
        assert report.bytes_read == 0
        assert not model.sealed or report.bytes_mapped == model.tensor_bytes
    else:
        assert report.bytes_mapped == 0
        assert model.tensor_bytes <= report.bytes_read <= read_max
        past_cache = mount.kind != "tmpfs" and (
            cache == "bypass" or (cache, temperature) == ("auto", "cold")
        )
        assert report.bytes_direct == (report.bytes_read if past_cache else 0)


@pytest.mark.parametrize("mapping", ["auto", "never"])
@pytest.mark.parametrize("cache", ["auto", "bypass", "keep"])
@pytest.mark.parametrize("engine", _ENGINES)
def test_a_cold_file_is_in_the_page_cache_afterwards_only_when_kept(
    mount: testbed.Mount, model: _Model, engine: Any, cache: Any, mapping: Any
) -> None:
    if mount.kind == "tmpfs":
        pytest.skip("a tmpfs keeps its files in memory only")
    options = fastio.Options(engine=engine, cache=cache, mapping=mapping)

    def left_by_a_load() -> int:
        testbed.evict(model.path)
        fastio.load(model.path, options=options)
        return testbed.resident_bytes(model.path)

    if cache == "keep":
        nbytes = model.path.stat().st_size
        assert eventually(lambda: left_by_a_load() >= nbytes)
    else:
        assert left_by_a_load() <= _HEADER_TRACE_BYTES


@pytest.mark.parametrize("cache", ["auto", "bypass", "keep"])
@pytest.mark.parametrize("engine", _ENGINES)
def test_a_file_that_is_half_in_the_page_cache_is_right(
    mount: testbed.Mount, model: _Model, engine: Any, cache: Any
) -> None:
    if mount.kind == "tmpfs":
        pytest.skip("a tmpfs keeps its files in memory only")
    testbed.evict(model.path)
    report = fastio.Report()
    options = fastio.Options(engine=engine, cache=cache, block_bytes=CHUNK_BYTES)
    with testbed.kept_warm(model.path, 6 << 20):
        assert testbed.resident_bytes(model.path) < model.path.stat().st_size
        tensors = fastio.load(model.path, options=options, report=report)
    assert same_bytes(tensors, model.expected)
    assert report.cache == "mixed"
    assert report.engine == ("mmap" if cache == "keep" else engine)
    assert report.chunks_verified == model.chunks
    if cache == "auto":  # cached blocks from the cache, the others from the disk
        assert report.bytes_direct > 0
        assert report.bytes_buffered > 0
    elif cache == "bypass":
        assert report.bytes_buffered == 0
    else:
        assert report.bytes_mapped >= report.nbytes


@pytest.mark.parametrize("engine", _ENGINES)
@pytest.mark.parametrize("temperature", ["cold", "warm"], indirect=True)
def test_without_verification_no_chunk_is_counted_and_the_file_is_named(
    model: _Model, engine: Any, temperature: str
) -> None:
    report = fastio.Report()
    options = fastio.Options(engine=engine)
    tensors = fastio.load(model.path, verify=False, options=options, report=report)
    assert same_bytes(tensors, model.expected)
    assert report.chunks_verified == 0
    assert report.unverified == (str(model.path),)
    assert report.bytes_read <= model.tensor_bytes + _PAGE_BYTES


@pytest.mark.parametrize("engine", _ENGINES)
@pytest.mark.parametrize("temperature", ["cold", "warm"], indirect=True)
def test_a_part_of_a_sealed_file_is_verified_by_its_own_chunks(
    models: dict[bool, _Model], mount: testbed.Mount, engine: Any, temperature: str
) -> None:
    sealed = models[True]
    report = fastio.Report()
    options = fastio.Options(engine=engine, cache="bypass", mapping="never")
    # A few KiB in the middle of the file.
    name = "layers.0.scale"
    with _held(sealed.path, temperature, mount.kind):
        tensors = fastio.load(sealed.path, names=[name], options=options, report=report)
    assert same_bytes(tensors, {name: sealed.expected[name]})
    assert report.chunks_verified == 1
    assert report.bytes_read == CHUNK_BYTES


@pytest.mark.parametrize("temperature", ["cold", "warm"], indirect=True)
@pytest.mark.parametrize("engine", _ENGINES)
@pytest.mark.parametrize(
    ("lanes", "queue_depth", "block_bytes"),
    [(1, 1, 1), (1, 8, 3 << 20), (4, 2, 70_000), (3, 64, 1 << 30)],
    ids=["one by one", "odd blocks", "several lanes", "one block"],
)
def test_lanes_depth_and_blocks_change_nothing_in_the_bytes(
    model: _Model, temperature: str, engine: Any, lanes: int, queue_depth: int, block_bytes: int
) -> None:
    report = fastio.Report()
    options = fastio.Options(
        engine=engine,
        mapping="never",
        lanes=lanes,
        queue_depth=queue_depth,
        block_bytes=block_bytes,
    )
    tensors = fastio.load(model.path, options=options, report=report)
    assert same_bytes(tensors, model.expected)
    assert report.chunks_verified == model.chunks
    assert 1 <= report.lanes <= lanes


@pytest.mark.parametrize("huge_pages", ["on", "off"])
def test_huge_pages_change_nothing_in_the_bytes(model: _Model, huge_pages: Any) -> None:
    options = fastio.Options(huge_pages=huge_pages, mapping="never")
    assert same_bytes(fastio.load(model.path, options=options), model.expected)


def test_a_small_warm_file_needs_no_engine(mount: testbed.Mount, tmp_path: Path) -> None:
    folder = mount.path / tmp_path.name
    folder.mkdir()
    path = write_model(folder / "model")
    small = fastio.load(path, names=["norm.weight"])
    assert same_bytes(small, {"norm.weight": expected_bytes(path)["norm.weight"]})
    for mapping, engine in (("auto", "mmap"), ("never", "inline")):
        report = fastio.Report()
        options = fastio.Options(mapping=mapping)  # type: ignore[arg-type]
        fastio.load(path, names=["norm.weight"], options=options, report=report)
        assert report.engine == engine
        assert report.engine_reason
    path.unlink()
    folder.rmdir()


def test_the_data_of_a_sealed_file_starts_at_a_page(models: dict[bool, _Model]) -> None:
    assert data_start(models[True].path) % _PAGE_BYTES == 0
    assert data_start(models[False].path) % _PAGE_BYTES != 0
