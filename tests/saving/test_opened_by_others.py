"""Every library that opens safetensors' own files opens fastio's, from every way to write them.

Loaders of models check the metadata: both no metadata and the format pt are right for them. The
installed ones are tested as they are, and transformers 4 in its own process.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import fastio
import fastio.numpy
import fastio.torch
from testbed import run_python

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # which transformers looks at when it is imported

# Warnings of their code are not ours to fix.
pytestmark = pytest.mark.filterwarnings("ignore")

_TRANSFORMERS_4 = Path(__file__).parents[2] / "build" / "rivals" / "transformers-4.57.1"


class _Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(7, 3)
        self.norm = torch.nn.LayerNorm(3)


_MODEL = _Model()
_TENSORS: dict[str, torch.Tensor] = {n: t.detach() for n, t in _MODEL.state_dict().items()}
_ARRAYS: dict[str, Any] = {name: tensor.numpy() for name, tensor in _TENSORS.items()}


def _sealed(path: Path, metadata: dict[str, str] | None = None) -> None:
    safetensors.torch.save_file(_TENSORS, path, metadata)
    fastio.seal(path)


def _sealed_with_null(path: Path) -> None:
    content = safetensors.torch.save(_TENSORS)
    length = int.from_bytes(content[:8], "little")
    text = b'{"__metadata__":null,' + content[9 : 8 + length]
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    fastio.seal(path)


def _sealed_again(path: Path) -> None:
    """With only the keys of another sealed file as metadata."""
    fastio.save(_TENSORS, path)
    with safetensors.safe_open(path, "pt") as file:
        own = {k: v for k, v in file.metadata().items() if k.startswith("fastio.")}
    _sealed(path, own)


def _tied(path: Path) -> None:
    model = _Model()
    model.load_state_dict(_TENSORS)
    model.later = model.embed
    fastio.torch.save_model(model, str(path))


def _specs() -> dict[str, fastio.TensorSpec]:
    return {
        name: fastio.TensorSpec(
            dtype="float32",
            shape=list(tensor.shape),
            data_ptr=tensor.data_ptr(),
            data_len=tensor.nbytes,
        )
        for name, tensor in _TENSORS.items()
    }


def _shards(path: Path) -> None:
    fastio.save(_TENSORS, path, shard_bytes=60)


def _store(path: Path) -> None:
    path.mkdir()
    with fastio.Store.create([path], replicas=1) as store:
        store.save(_TENSORS, metadata={"step": "1"})


# Each makes a file, or a folder with files somewhere in it.
_WRITERS: dict[str, Callable[[Path], object]] = {
    "save": lambda path: fastio.save(_TENSORS, path),
    "save of arrays": lambda path: fastio.save(_ARRAYS, path),
    "save of arrays and tensors": lambda path: fastio.save(
        {**_TENSORS, "norm.bias": _ARRAYS["norm.bias"]}, path
    ),
    "save with metadata": lambda path: fastio.save(_ARRAYS, path, metadata={"step": "1"}),
    "save with empty metadata": lambda path: fastio.save(_ARRAYS, path, metadata={}),
    "save without checksums": lambda path: fastio.save(_ARRAYS, path, checksums=False),
    "save in the background": lambda path: fastio.start_save(_ARRAYS, path).result(),
    "save of shards": _shards,
    "a store": _store,
    "torch.save_file": lambda path: fastio.torch.save_file(_TENSORS, path),
    "torch.save_file with empty metadata": lambda p: fastio.torch.save_file(_TENSORS, p, {}),
    "torch.save_model": lambda path: fastio.torch.save_model(_MODEL, str(path)),
    "torch.save_model of a tied one": _tied,
    "torch.save": lambda path: path.write_bytes(fastio.torch.save(_TENSORS)),
    "numpy.save_file": lambda path: fastio.numpy.save_file(_ARRAYS, path),
    "numpy.save": lambda path: path.write_bytes(fastio.numpy.save(_ARRAYS)),
    "serialize": lambda path: path.write_bytes(fastio.serialize(_specs())),
    "serialize_file": lambda path: fastio.serialize_file(_specs(), path),
    "seal": _sealed,
    "seal of a file with a format": lambda path: _sealed(path, {"format": "pt"}),
    "seal of a file with null for metadata": _sealed_with_null,
    "seal of a file with metadata that was copied": _sealed_again,
}


def _check(found: dict[str, Any], where: str = "") -> None:
    assert found, where
    for name, tensor in found.items():
        assert torch.equal(torch.as_tensor(tensor), _TENSORS[name]), (where, name)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """The files of each way to write."""
    folder = tmp_path_factory.mktemp("written")
    files = {}
    for number, (what, write) in enumerate(_WRITERS.items()):
        path = folder / str(number) / "model.safetensors"
        path.parent.mkdir()
        write(path)
        files[what] = [path] if path.is_file() else sorted(path.rglob("*.safetensors"))
        whole = [name for file in files[what] for name in safetensors.torch.load_file(file)]
        assert sorted(whole) == sorted(_TENSORS)
    return files


def _of_accelerate() -> Any:
    return pytest.importorskip("accelerate.utils", reason="is not installed").load_state_dict


def _of_huggingface_hub() -> Any:
    return pytest.importorskip(
        "huggingface_hub", reason="is not installed"
    ).load_state_dict_from_file


def _of_transformers() -> Any:
    modeling = pytest.importorskip("transformers.modeling_utils", reason="is not installed")
    return modeling.load_state_dict


def _of_fastsafetensors() -> Any:
    fastsafetensors = pytest.importorskip("fastsafetensors", reason="is not installed")

    def load(path: str) -> dict[str, torch.Tensor]:
        with fastsafetensors.fastsafe_open(path, device="cpu", nogds=True) as file:
            return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118

    return load


def _of_runai() -> Any:
    streamers = pytest.importorskip("runai_model_streamer", reason="is not installed")

    def load(path: str) -> dict[str, torch.Tensor]:
        with streamers.SafetensorsStreamer() as streamer:
            streamer.stream_file(path)
            return {name: tensor.clone() for name, tensor in streamer.get_tensors()}

    return load


def _of_gguf() -> Any:
    reader = pytest.importorskip("gguf.utility", reason="is not installed").SafetensorsLocal

    def load(path: str) -> dict[str, np.ndarray[Any, Any]]:
        with reader(Path(path)) as tensors:
            return {
                name: tensor.mmap_bytes().view(np.float32).reshape(tensor.shape)
                for name, tensor in tensors.items()
            }

    return load


_READERS: dict[str, Callable[[], Any]] = {
    "accelerate": _of_accelerate,
    "huggingface_hub": _of_huggingface_hub,
    "transformers": _of_transformers,
    "fastsafetensors": _of_fastsafetensors,
    "Run:ai's streamer": _of_runai,
    "gguf": _of_gguf,
}


@pytest.mark.parametrize("reader", _READERS)
def test_each_library_opens_each_file(written: dict[str, list[Path]], reader: str) -> None:
    load = _READERS[reader]()
    for writer, paths in written.items():
        for path in paths:
            _check(load(str(path)), writer)


def test_the_checkpoints_of_torch_distributed_read_each_file(
    written: dict[str, list[Path]],
) -> None:
    checkpoint = pytest.importorskip("torch.distributed.checkpoint", reason="is not there")
    for writer, paths in written.items():
        state = {name: torch.zeros_like(tensor) for name, tensor in _TENSORS.items()}
        storage = checkpoint.HuggingFaceStorageReader(str(paths[0].parent))
        checkpoint.load(state, storage_reader=storage, no_dist=True)
        _check(state, writer)


_CHILD = """
import json, sys
import huggingface_hub, torch, transformers
from transformers.modeling_utils import load_state_dict
from accelerate.utils import load_state_dict as of_accelerate
assert transformers.__version__ == "4.57.1", transformers.__version__

refused = []
for path in sys.argv[1:]:
    for load in (load_state_dict, huggingface_hub.load_state_dict_from_file, of_accelerate):
        try:
            assert load(path)
        except Exception as error:
            refused.append(f"{load.__module__}: {path}: {error}")
print(json.dumps(refused))
"""


def _by_transformers_4(code: str, *paths: Path) -> Any:
    if not _TRANSFORMERS_4.is_dir():
        pytest.skip(f"{_TRANSFORMERS_4} is missing: make pytest installs it")
    env = {"PYTHONPATH": str(_TRANSFORMERS_4), "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    return json.loads(run_python(code, *paths, env=env).check().stdout.splitlines()[-1])


def test_transformers_4_opens_each_file(written: dict[str, list[Path]]) -> None:
    paths = [path for files in written.values() for path in files]
    assert _by_transformers_4(_CHILD, *paths) == []


_CHILD_OF_MODELS = """
import json, sys
import torch, transformers

refused = []
for folder in sys.argv[1:]:
    model, info = transformers.BertModel.from_pretrained(folder, output_loading_info=True)
    refused += [f"{folder}: {key}" for key in info["missing_keys"]]
    refused += [f"{folder}: {t.sum()}" for n, t in model.named_parameters() if not (t == 1).all()]
print(json.dumps(refused))
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A model whose weights are all 1, in folders as transformers has them."""
    transformers = pytest.importorskip("transformers", reason="is not installed")
    config = transformers.BertConfig(
        vocab_size=7,
        hidden_size=4,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=4,
        max_position_embeddings=5,
    )
    state = {
        name: torch.ones_like(tensor)
        for name, tensor in transformers.BertModel(config).named_parameters()
    }
    arrays = {name: tensor.detach().numpy() for name, tensor in state.items()}
    writers: dict[str, Callable[[Path], object]] = {
        "torch": lambda path: fastio.torch.save_file(state, path),
        "numpy": lambda path: fastio.numpy.save_file(arrays, path),
        "sealed": lambda path: (safetensors.torch.save_file(state, path), fastio.seal(path)),
        "shards": lambda path: fastio.save(arrays, path.parent, shard_bytes=300),
    }
    folders = []
    for what, write in writers.items():
        folder = tmp_path_factory.mktemp(what)
        config.save_pretrained(folder)
        write(folder / "model.safetensors")
        folders.append(folder)
    return folders


def test_transformers_makes_a_model_of_it(models: list[Path]) -> None:
    transformers = pytest.importorskip("transformers", reason="is not installed")
    for folder in models:
        model, info = transformers.BertModel.from_pretrained(folder, output_loading_info=True)
        assert not info["missing_keys"]
        assert all(bool((tensor == 1).all()) for tensor in model.parameters())


def test_transformers_4_makes_a_model_of_it(models: list[Path]) -> None:
    assert _by_transformers_4(_CHILD_OF_MODELS, *models) == []
