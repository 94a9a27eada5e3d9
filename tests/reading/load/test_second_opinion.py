"""The engines read the same bytes as the Python ring, through other code, other descriptors and
other requests.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fastio
import testbed
from fastio.formats import huggingface
from samples import loaded_bytes, write_model

_BLOCK_BYTES = 96 << 10  # so that its requests begin at other offsets than the engines'
_DEPTH = 8


@pytest.fixture
def ring() -> Iterator[Any]:
    try:
        from fastio.uring import Ring

        made = Ring(_DEPTH)
    except (ImportError, OSError) as error:
        pytest.skip(f"there is no second opinion: {error}")
    with made:
        yield made


def _bytes_at(ring: Any, fd: int, offset: int, nbytes: int) -> bytes:
    """Read an extent in blocks, several in flight, each resumed after a short read."""
    data = bytearray(nbytes)
    view = memoryview(data)
    todo = [(at, min(at + _BLOCK_BYTES, nbytes)) for at in range(0, nbytes, _BLOCK_BYTES)]
    flying: dict[int, tuple[int, int]] = {}
    while todo or flying:
        while todo and len(flying) < _DEPTH:
            begin, end = todo.pop()
            ring.read(fd, view[begin:end], offset + begin, tag=begin)
            flying[begin] = (begin, end)
        ring.submit()
        for completion in ring.wait():
            begin, end = flying.pop(completion.tag)
            assert completion.result > 0, completion.error
            if begin + completion.result < end:
                todo.append((begin + completion.result, end))
    view.release()
    return bytes(data)


@pytest.mark.root
@pytest.mark.parametrize("cache", ["bypass", "keep"])
@pytest.mark.parametrize("engine", ["uring", "pread"])
def test_a_ring_reads_the_bytes_that_were_loaded(
    storage: Path, filesystem: str, ring: Any, engine: Any, cache: Any
) -> None:
    path = fastio.seal(write_model(storage / "model.safetensors"))
    options = fastio.Options(engine=engine, cache=cache, mapping="never")
    report = fastio.Report()
    loaded = loaded_bytes(fastio.load(path, options=options, report=report))
    assert report.engine == engine
    if filesystem != "tmpfs":
        testbed.evict(path)  # so that the ring, too, reads from the disk
    catalog = huggingface.locate(path)
    assert loaded.keys() == set(catalog)
    fd = os.open(path, os.O_RDONLY)
    try:
        for name, data in loaded.items():
            info = catalog.info(name)
            assert (info.path, info.nbytes) == (str(path), len(data))
            same = _bytes_at(ring, fd, info.offset, info.nbytes) == data
            assert same, name  # `==` in the assertion would print them
    finally:
        os.close(fd)
