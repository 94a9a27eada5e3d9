"""Code that knows safetensors gets its tensors on the GPU; tensors there can be saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import fastio
import fastio.torch
from gpu.samples import MODEL, assert_same, data_of, on_cpu, on_gpu
from samples import write

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("device", ["cuda", "cuda:0", 0])
def test_safe_open_gives_the_same_tensors_as_on_the_cpu(sealed: Path, device: Any) -> None:
    expected = on_cpu(sealed)
    with fastio.safe_open(sealed, framework="pt", device=device) as file:
        assert_same({name: file.get_tensor(name) for name in file.offset_keys()}, expected)
        assert_same(file.get_tensors(), expected)
        part = file.get_slice("embed.weight")[10:20, ::3]
    assert str(part.device) == "cuda:0"
    assert_same({"part": part.contiguous()}, {"part": expected["embed.weight"][10:20, ::3]})


def test_load_file_is_that_of_safetensors(tmp_path: Path) -> None:
    # safetensors supports packed dtypes on some devices only.
    spec = {name: what for name, what in MODEL.items() if what[0] != "F4"}
    path = write(tmp_path / "model.safetensors", spec)
    theirs = safetensors.torch.load_file(path, device="cuda:0")
    ours = fastio.torch.load_file(path, device="cuda:0")
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert (ours[name].device, ours[name].dtype) == (tensor.device, tensor.dtype)
        assert torch.equal(data_of(ours[name]), data_of(tensor)), name


def _model() -> torch.nn.Module:
    model = torch.nn.Sequential(
        torch.nn.Embedding(700, 64), torch.nn.Linear(64, 64), torch.nn.Linear(64, 700, bias=False)
    )
    model[2].weight = model[0].weight  # tied
    return model


@pytest.mark.parametrize("on", ["cpu", "cuda"])
def test_load_model_fills_a_model_from_the_device(on: str, tmp_path: Path) -> None:
    saved = _model()
    fastio.torch.save_model(saved, tmp_path / "model.safetensors")
    model = _model().to(on)
    found = fastio.torch.load_model(model, tmp_path / "model.safetensors", device="cuda")
    assert found == (set(), [])
    for name, tensor in saved.state_dict().items():
        assert torch.equal(model.state_dict()[name].cpu(), tensor), name


@pytest.mark.parametrize("wait", [True, False])
def test_tensors_on_the_device_are_saved_as_they_are(
    sealed: Path, tmp_path: Path, wait: bool
) -> None:
    expected = on_cpu(sealed)
    path = tmp_path / "again.safetensors"
    if wait:
        fastio.save(on_gpu(sealed), path)
    else:
        fastio.start_save(on_gpu(sealed), path).result()
    assert_same(on_cpu(path), expected, "cpu")
    assert_same(on_gpu(path, verify="require"), expected)


def test_a_tensor_is_saved_after_queued_kernels_have_written_it(tmp_path: Path) -> None:
    tensor = torch.zeros(1_000_001, device="cuda:0")
    torch.cuda._sleep(500_000_000)
    tensor += 7
    strided = tensor[::3]
    fastio.torch.save_file({"t": tensor}, tmp_path / "file")
    fastio.save({"t": tensor, "strided": strided}, tmp_path / "model")
    assert bool((on_cpu(tmp_path / "file")["t"] == 7).all())
    assert torch.equal(on_gpu(tmp_path / "model")["strided"], strided)


def test_a_tensor_without_values_is_refused(sealed: Path, tmp_path: Path) -> None:
    meta = torch.empty(1024, device="meta")
    with pytest.raises(fastio.UsageError, match="a tensor there has no values"):
        on_gpu(sealed, device="meta")
    with pytest.raises(fastio.UsageError, match="a tensor there has no values"):
        on_gpu(sealed, device=None, device_map={"norm": "meta", "": "cuda"})
    with pytest.raises(TypeError, match="meta"):
        fastio.load_into(sealed, {"norm.weight": meta}, strict=False)
    with pytest.raises(TypeError, match="meta"):
        fastio.save({"t": meta}, tmp_path / "model")
