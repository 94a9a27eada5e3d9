"""Every flipped bit of a saved file is found by a load."""

import random
from pathlib import Path

import pytest

import fastio
from faults.samples import NEW, Engine, held, many_at_once, one_by_one, place, save
from samples import data_start

_PAYLOAD_BITS = 2_000


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that was saved."""
    path = place(tmp_path_factory.mktemp("saved"), "file")
    save(path, NEW, "file", one_by_one("pread"))
    return path


def test_every_engine_saves_the_same_bytes(saved: Path, tmp_path: Path, engine: Engine) -> None:
    path = place(tmp_path, "file")
    save(path, NEW, "file", many_at_once(engine))
    assert path.read_bytes() == saved.read_bytes()


def _unseen(path: Path, bits: list[int], error: type[Exception]) -> list[int]:
    """Flip bits of a file, one at a time, and return those that a load does not report."""
    unseen = []
    with path.open("r+b", buffering=0) as file:
        content = path.read_bytes()
        for bit in bits:
            place, flipped = bit // 8, content[bit // 8] ^ 1 << bit % 8
            file.seek(place)
            file.write(bytes([flipped]))
            try:
                fastio.load(path, names=["norm.weight"] if error is fastio.FormatError else None)
            except error:
                pass
            else:
                unseen.append(bit)
            file.seek(place)
            file.write(content[place : place + 1])
    assert held(path) == NEW
    return unseen


def test_no_flipped_bit_of_a_saved_header_goes_unseen(saved: Path) -> None:
    bits = list(range(8 * data_start(saved)))
    assert len(bits) == 8 * 4096
    assert _unseen(saved, bits, fastio.FormatError) == []


def test_no_flipped_bit_of_the_data_goes_unseen(saved: Path) -> None:
    bits = range(8 * data_start(saved), 8 * saved.stat().st_size)
    chosen = random.Random(1).sample(bits, _PAYLOAD_BITS)
    assert _unseen(saved, chosen, fastio.ChecksumError) == []
