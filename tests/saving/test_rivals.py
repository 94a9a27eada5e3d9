"""safetensors, transformers, fastsafetensors and Run:ai's streamer, as installed, read a real model
that fastio saved.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch

import fastio
from bench.measure.models import minilm
from samples import bytes_of

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # which transformers looks at when it is imported

# Warnings of their code are not ours to fix.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def model() -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(minilm())


@pytest.fixture(scope="module", params=["file", "folder"])
def saved(
    request: pytest.FixtureRequest,
    model: dict[str, torch.Tensor],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A folder with the model in one file, or in several."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    if request.param == "folder":
        return fastio.save(model, folder, shard_bytes=20_000_000)
    folder.mkdir()
    fastio.save(model, folder / "model.safetensors")
    return folder


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _check(found: dict[str, torch.Tensor], model: dict[str, torch.Tensor]) -> None:
    assert found.keys() == model.keys()
    for name, tensor in model.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        assert bytes_of(found[name]) == bytes_of(tensor), name


def test_safetensors(saved: Path, model: dict[str, torch.Tensor]) -> None:
    whole: dict[str, torch.Tensor] = {}
    one_by_one: dict[str, torch.Tensor] = {}
    for path in _files(saved):
        whole |= safetensors.torch.load_file(path)
        with safetensors.safe_open(path, "pt") as file:
            assert file.metadata()["format"] == "pt"
            one_by_one |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    _check(whole, model)
    _check(one_by_one, model)


def test_fastsafetensors(saved: Path, model: dict[str, torch.Tensor]) -> None:
    fastsafetensors = pytest.importorskip("fastsafetensors", reason="is not installed")
    found = {}
    for path in _files(saved):
        with fastsafetensors.fastsafe_open(str(path), device="cpu", nogds=True) as file:
            for name in file.keys():  # noqa: SIM118
                found[name] = file.get_tensor(name).clone()
    _check(found, model)


def test_the_streamer_of_runai(saved: Path, model: dict[str, torch.Tensor]) -> None:
    streamers = pytest.importorskip("runai_model_streamer", reason="is not installed")
    found = {}
    for path in _files(saved):
        with streamers.SafetensorsStreamer() as streamer:
            streamer.stream_file(str(path))
            for name, tensor in streamer.get_tensors():
                found[name] = tensor.clone()
    _check(found, model)


@pytest.fixture
def loadable(saved: Path) -> Iterator[Path]:
    """The folder with the configuration that transformers needs."""
    config = saved / "config.json"
    config.write_text(json.dumps(json.loads((minilm().parent / "config.json").read_text())))
    yield saved
    config.unlink()


def test_transformers(loadable: Path, model: dict[str, torch.Tensor]) -> None:
    transformers = pytest.importorskip("transformers", reason="is not installed")
    loaded, info = transformers.BertModel.from_pretrained(loadable, output_loading_info=True)
    assert not info["missing_keys"]
    parameters: dict[str, Any] = dict(loaded.named_parameters())
    assert parameters
    for name, parameter in parameters.items():
        assert bytes_of(parameter.contiguous()) == bytes_of(model[name]), name
