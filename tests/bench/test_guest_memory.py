"""Memory is held between measurements, and free and owned when one begins."""

from pathlib import Path

import pytest

from bench.errors import MeasureError
from bench.measure import guest_memory
from bench.measure.process import status_bytes

MIB = 2**20


def resident(ballast: guest_memory.Ballast) -> int:
    return status_bytes("RssAnon", ballast._process.pid)


def test_a_ballast_holds_its_memory_until_it_is_freed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(guest_memory, "wanted_bytes", lambda tensor_bytes: 64 * MIB)
    with guest_memory.Ballast(1) as ballast:
        for _ in range(2):
            ballast.fill()
            ballast._await()
            assert resident(ballast) >= 64 * MIB
            ballast._is_filling = False
            ballast._tell(guest_memory.FREE)
            ballast._await()
            assert resident(ballast) < 32 * MIB
        process = ballast._process
    assert process.returncode is not None


def test_freeing_waits_for_memory_that_is_still_being_taken(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(guest_memory, "wanted_bytes", lambda tensor_bytes: 64 * MIB)
    with guest_memory.Ballast(1) as ballast:
        told: list[bytes] = []
        real = ballast._tell

        def tell(order: bytes) -> None:
            told.append(order)
            real(order)

        monkeypatch.setattr(ballast, "_tell", tell)
        # As at the start of the block; a repeated message is printed once.
        ballast.fill()
        ballast.free()
        ballast.free()
        assert told == [guest_memory.FREE, guest_memory.FILL, guest_memory.FREE]


def test_a_child_that_dies_is_an_error_with_its_last_words(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(guest_memory, "wanted_bytes", lambda tensor_bytes: 2**62)
    with (
        guest_memory.Ballast(1) as ballast,
        pytest.raises(MeasureError, match=r"prepared: OSError.*Cannot allocate memory"),
    ):
        ballast.free()


def test_a_child_that_died_is_replaced(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(guest_memory, "wanted_bytes", lambda tensor_bytes: 4 * MIB)
    with guest_memory.Ballast(1) as ballast:
        ballast.free()
        first = ballast._process
        first.kill()
        first.wait()
        ballast.fill()
        ballast.free()
        assert ballast._process.pid != first.pid


def test_a_ballast_exceeds_the_measured_size_and_fits_in_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(guest_memory, "available_bytes", lambda: 2**34)
    assert guest_memory.wanted_bytes(0) == guest_memory.BYTES_MIN
    assert guest_memory.wanted_bytes(2**31) == 3 * 2**31
    assert guest_memory.wanted_bytes(2**40) == int(0.6 * 2**34)


def test_available_memory_is_that_of_the_kernel(monkeypatch: pytest.MonkeyPatch):
    assert guest_memory.available_bytes() > 0
    monkeypatch.setattr(Path, "read_text", lambda self: "MemTotal: 5 kB\n")
    with pytest.raises(MeasureError, match="MemAvailable"):
        guest_memory.available_bytes()


@pytest.mark.parametrize("nbytes", [0, 1, 5 * MIB, 33 * MIB])
def test_populated_memory_is_there(nbytes: int):
    before = status_bytes("RssAnon")
    with guest_memory.populated(nbytes) as held:
        assert held >= max(nbytes - guest_memory.THREADS * guest_memory.HUGE_PAGE_BYTES, 1)
        assert status_bytes("RssAnon") - before >= held // 2
