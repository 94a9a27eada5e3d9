"""A damaged header of a sealed file is refused, whether its text or its length is damaged. It never
passes for a header with copied metadata.
"""

import struct
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

import fastio
from fastio.formats import safetensors
from fastio.formats.safetensors import InMemory
from samples import data_start

# The characters of a header, and some others.
_VALUES = sorted({*b'"\\{}[]:,. 0189aAfFnulltruefastio', 0, 1, 9, 10, 13, 0x7F, 0x80, 0xFF})


def _is_refused(content: bytes) -> bool:
    """Refused with a FormatError, even if unsound tables are accepted."""
    try:
        shard = safetensors.locate(InMemory("damaged", len(content), content), keep_unsound=True)
    except fastio.FormatError:
        return True
    return shard.unsound is not None and not shard.unsound.is_copied


def _sealed(folder: Path, arrays: dict[str, Any], metadata: dict[str, str] | None = None) -> bytes:
    return fastio.save(arrays, folder / "sealed.safetensors", metadata=metadata).read_bytes()


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    arrays = {"w": np.arange(20, dtype=np.float32), "v": np.arange(3, dtype=np.uint8)}
    found = _sealed(
        tmp_path_factory.mktemp("sealed"), arrays, metadata={"a": "b", "long": "x" * 60}
    )
    assert _start(found) == 4096
    assert not _is_refused(found)
    return found


def _start(content: bytes) -> int:
    """Bytes of the length and the header."""
    length: int = struct.unpack_from("<Q", content)[0]
    return 8 + length


def _text_end(content: bytes) -> int:
    return len(content[: _start(content)].rstrip(b" "))


def test_no_other_byte_of_the_text_is_taken(content: bytes) -> None:
    damaged = bytearray(content)
    for at in range(8, _text_end(content)):
        for value in _VALUES:
            if value != content[at]:
                damaged[at] = value
                assert _is_refused(bytes(damaged)), (at, value)
        damaged[at] = content[at]
    assert bytes(damaged) == content


@pytest.mark.parametrize("value", [*b"\t\n\r", 0, *b"x}"])
def test_no_other_byte_of_the_padding_is_taken(content: bytes, value: int) -> None:
    for at in (*range(_text_end(content), _text_end(content) + 20), 4095):
        damaged = bytearray(content)
        damaged[at] = value
        assert _is_refused(bytes(damaged)), at


@hypothesis.settings(max_examples=500)
@hypothesis.given(data=st.data())
def test_no_damage_of_several_bytes_is_taken(content: bytes, data: st.DataObject) -> None:
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(8, _text_end(content)) | st.integers(8, 4095))
        run = data.draw(st.binary(min_size=1, max_size=40) | st.text(max_size=20).map(str.encode))
        # A run of the header at another place in it, as from a misplaced block.
        begin = data.draw(st.integers(8, 4095))
        moved = content[begin : begin + data.draw(st.integers(1, 600))]
        run = data.draw(st.sampled_from([run, moved]))[: 4096 - at]
        damaged[at : at + len(run)] = run
    assert len(damaged) == len(content)
    if bytes(damaged) == content:
        return
    # If the damage removes all three keys, the header no longer says that the file was sealed.
    hypothesis.assume(b'"fastio.' in damaged[:4096])
    assert _is_refused(bytes(damaged))


def test_no_bit_of_the_length_is_taken(content: bytes) -> None:
    for bit in range(64):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        assert _is_refused(bytes(damaged)), bit


_DATA = {
    "numbers": np.arange(6000, dtype=np.float32),
    # A longer header ends with them, and is still valid.
    "spaces": np.full(24_000, ord(" "), np.uint8),
    "newlines": np.full(24_000, ord("\n"), np.uint8),
    "braces": np.full(24_000, ord("}"), np.uint8),
    "zeros": np.zeros(24_000, np.uint8),
    "nothing": np.zeros((0, 3), np.float32),
    "one value": np.full(1, ord(" "), np.uint8),
}


@pytest.mark.parametrize("what", _DATA)
def test_no_other_length_is_taken(tmp_path: Path, what: str) -> None:
    content = _sealed(tmp_path, {"w": _DATA[what]})
    start = _start(content)
    lengths = {*range(start + 9000), *range(len(content) - 20, len(content) + 20)} - {start - 8}
    for length in sorted(lengths):
        assert _is_refused(struct.pack("<Q", length) + content[8:]), length


@pytest.mark.parametrize("what", _DATA)
def test_no_cut_off_file_is_taken(tmp_path: Path, what: str) -> None:
    content = _sealed(tmp_path, {"w": _DATA[what]})
    for nbytes in (*range(0, len(content), 61), *range(max(0, len(content) - 9), len(content))):
        assert _is_refused(content[:nbytes]), nbytes
    for more in (b"\0", b" " * 8, bytes(4096)):
        assert _is_refused(content + more)


@pytest.mark.parametrize("block_bytes", [8, 64, 512, 2048])
def test_no_mixture_of_two_headers_is_taken(
    tmp_path: Path, content: bytes, block_bytes: int
) -> None:
    """The result of an interrupted write over another file of the same size."""
    arrays = {"w": np.arange(1, 21, dtype=np.float32), "v": np.arange(1, 4, dtype=np.uint8)}
    other = _sealed(tmp_path, arrays, metadata={"a": "c", "long": "y" * 60})
    assert len(other) == len(content)
    assert _start(other) == _start(content)
    for end in range(block_bytes, 4096, block_bytes):
        for one, rest in ((content, other), (other, content)):
            mixed = one[:end] + rest[end:]
            header = mixed[:4096]
            assert _is_refused(mixed) or header in (content[:4096], other[:4096]), end


def test_a_block_of_zeros_is_refused(content: bytes) -> None:
    for begin in range(0, 4096, 512):
        assert _is_refused(content[:begin] + bytes(512) + content[begin + 512 :])


def test_load_refuses_every_file_that_locate_refuses(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "damaged.safetensors"
    for at in range(8, _text_end(content), 7):
        damaged = bytearray(content)
        damaged[at] ^= 1
        path.write_bytes(damaged)
        assert data_start(path) == 4096
        with pytest.raises(fastio.FormatError):
            fastio.load(path)
