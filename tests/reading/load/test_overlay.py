"""On an overlay, as in container images, cached pages are seen and used."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import fastio
from bench.measure import cache
from samples import Spec, write
from testbed import evict, kept_warm
from testbed.mounts import overlay_mount

# Larger than fastio loads on the caller's thread.
MODEL: Spec = {f"layers.{at}.weight": ("F32", (1024, 1024)) for at in range(4)}


@pytest.fixture
def layers(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A sealed file on an overlay, and the same file in the layer below."""
    with overlay_mount(tmp_path) as (path, lower):
        below = write(lower / "model.safetensors", MODEL)
        fastio.seal(below)
        yield path / below.name, below


@pytest.mark.root
def test_a_warm_file_of_an_image_is_taken_from_the_page_cache(layers: tuple[Path, Path]) -> None:
    file, below = layers
    report = fastio.Report()
    with kept_warm(below):
        fastio.load(file, report=report)
        assert cache.is_resident(file)
    assert (report.cache, report.bytes_direct) == ("warm", 0)
    assert report.chunks_verified > 0


@pytest.mark.root
def test_a_cold_file_of_an_image_is_read_past_the_page_cache(layers: tuple[Path, Path]) -> None:
    file, below = layers
    evict(below)
    assert cache.resident_pages(file) == 0
    report = fastio.Report()
    fastio.load(file, report=report)
    assert report.cache == "cold"
    assert report.bytes_direct > 0
