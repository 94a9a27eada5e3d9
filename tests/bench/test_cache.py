"""A file is cold or warm only when the kernel says so."""

import mmap
import os
from pathlib import Path

import pytest

from bench.measure import cache, machine

PAGES = 300


@pytest.fixture
def file(tmp_path: Path) -> Path:
    if machine.filesystem(tmp_path) in {"tmpfs", "ramfs"}:
        pytest.skip("a file in memory cannot be evicted")
    path = tmp_path / "file"
    # The last page is a part of one.
    path.write_bytes(os.urandom(PAGES * cache.PAGE_BYTES - 1000))
    return path


def test_a_file_is_evicted_though_it_was_just_written(file: Path):
    cache.evict(file)
    assert cache.resident_pages(file) == 0
    assert not cache.is_resident(file)


def test_a_file_is_populated_to_its_last_page(file: Path):
    cache.evict(file)
    cache.populate(file)
    assert cache.resident_pages(file) == cache.page_count(file) == PAGES
    assert cache.is_resident(file)


def test_a_file_that_is_half_cached_is_not_called_warm(file: Path):
    cache.evict(file)
    with file.open("rb", buffering=0) as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        opened.read(10)
    assert 0 < cache.resident_pages(file) < PAGES
    assert not cache.is_resident(file)


def test_both_ways_of_asking_agree(file: Path):
    cache.populate(file)
    descriptor = os.open(file, os.O_RDONLY)
    try:
        assert cache._resident_pages_mincore(descriptor, file) == cache.resident_pages(file)
        cache.evict(file)
        assert cache._resident_pages_mincore(descriptor, file) == 0
    finally:
        os.close(descriptor)


def test_pages_that_are_in_use_cannot_be_evicted_and_that_is_an_error(
    file: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cache, "ATTEMPTS", 2)
    with (
        file.open("rb") as opened,
        mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
    ):
        assert mapped[0] + mapped[-1] >= 0
        with pytest.raises(cache.CacheError, match="stay in the page cache"):
            cache.evict(file)
    cache.evict(file)


def test_an_empty_file_is_cold_and_warm(tmp_path: Path):
    path = tmp_path / "empty"
    path.touch()
    assert cache.resident_pages(path) == cache.page_count(path) == 0
