"""transformers and accelerate load a real model through fastio in the place of safetensors. Their
code is unchanged; its imports find fastio's names.

They keep several `safe_open` objects in a set, without `with`, close them by hand, pass `backend=`,
read slices with `...` from four threads, and want `format` in the metadata.
"""

import functools
import gc
import importlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import fastio
import fastio.torch
import testbed
from bench.measure.models import minilm
from samples import bytes_of, flip

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # which they look at when they are imported
transformers = pytest.importorskip("transformers", reason="transformers is not installed")
accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
# Its bars start a thread that stays as long as the process.
importlib.import_module("tqdm").tqdm.monitor_interval = 0
_MODELING = importlib.import_module("transformers.modeling_utils")
_INTEGRATION = importlib.import_module("transformers.integrations.accelerate")
_ACCELERATE_MODELING = importlib.import_module("accelerate.utils.modeling")
_ACCELERATE_OFFLOAD = importlib.import_module("accelerate.utils.offload")

# Warnings of their code are not ours to fix.
pytestmark = pytest.mark.filterwarnings("ignore")

_SHARD_BYTES = "20MB"


class _Calls(Counter[str]):
    """How often each of fastio's names was used."""

    def counted(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def counting(*args: Any, **arguments: Any) -> Any:
            self[name] += 1
            return call(*args, **arguments)

        return counting


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> _Calls:
    """Put fastio in the place of safetensors in both libraries, and count the calls."""
    made = _Calls()

    class Opened(fastio.safe_open):
        """Counts the calls on an open file."""

        def __init__(self, *args: Any, **arguments: Any) -> None:
            made["safe_open"] += 1
            super().__init__(*args, **arguments)

        def get_tensor(self, name: str) -> Any:
            made["get_tensor"] += 1
            return super().get_tensor(name)

        def get_slice(self, name: str) -> Any:
            made["get_slice"] += 1
            return super().get_slice(name)

        def __exit__(self, *args: Any) -> None:
            made["__exit__"] += 1
            super().__exit__(*args)

    for module in (_MODELING, _INTEGRATION, _ACCELERATE_MODELING, _ACCELERATE_OFFLOAD):
        monkeypatch.setattr(module, "safe_open", Opened)
    load_file = made.counted("load_file", fastio.torch.load_file)
    monkeypatch.setattr(_ACCELERATE_MODELING, "safe_load_file", load_file)
    load = made.counted("load", fastio.torch.load)
    monkeypatch.setattr(_MODELING, "_safe_load_bytes", load)
    return made


def _config() -> Any:
    """That of all-MiniLM-L6-v2."""
    return transformers.BertConfig(
        vocab_size=30522,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        max_position_embeddings=512,
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], Path]:
    """The model in one file and in shards, by that and by whether the files are sealed."""
    whole = tmp_path_factory.mktemp("whole")
    _config().save_pretrained(whole)
    shutil.copyfile(minilm(), whole / "model.safetensors")
    shards = tmp_path_factory.mktemp("shards")
    model = transformers.BertModel.from_pretrained(whole)
    model.save_pretrained(shards, max_shard_size=_SHARD_BYTES)
    assert len(list(shards.glob("*.safetensors"))) > 2
    made = {("whole", False): whole, ("shards", False): shards}
    for kind, folder in (("whole", whole), ("shards", shards)):
        sealed = tmp_path_factory.mktemp("sealed") / kind
        shutil.copytree(folder, sealed)
        for path in sealed.glob("*.safetensors"):
            fastio.seal(path)
        made[kind, True] = sealed
    return made


@pytest.fixture(params=[True, False], ids=["sealed", "unsealed"])
def sealed(request: pytest.FixtureRequest) -> bool:
    is_sealed: bool = request.param
    return is_sealed


@pytest.fixture(params=["whole", "shards"])
def folder(
    request: pytest.FixtureRequest, sealed: bool, saved: dict[tuple[str, bool], Path]
) -> Path:
    return saved[request.param, sealed]


@pytest.fixture(scope="module")
def expected(saved: dict[tuple[str, bool], Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The model as safetensors gives it to transformers, from a separate file."""
    own = shutil.copytree(saved["whole", False], tmp_path_factory.mktemp("expected") / "whole")
    return transformers.BertModel.from_pretrained(own).eval()


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _assert_same_parameters(model: torch.nn.Module, expected: torch.nn.Module) -> None:
    theirs = dict(expected.named_parameters())
    ours = dict(model.named_parameters())
    assert list(ours) == list(theirs)
    for name, parameter in ours.items():
        assert parameter.dtype == theirs[name].dtype
        assert parameter.shape == theirs[name].shape
        same = bytes_of(parameter.contiguous()) == bytes_of(theirs[name].contiguous())
        assert same, name


def _assert_same_answer(model: Any, expected: Any) -> None:
    words = torch.tensor([[101, 7592, 1010, 2088, 999, 102], [101, 2003, 2009, 2995, 1029, 102]])
    with torch.inference_mode():
        ours, theirs = model.eval()(input_ids=words), expected(input_ids=words)
    assert torch.equal(ours.last_hidden_state.cpu(), theirs.last_hidden_state)
    assert torch.equal(ours.pooler_output.cpu(), theirs.pooler_output)


@pytest.mark.parametrize("temperature", ["cold", "warm"])
def test_from_pretrained(folder: Path, calls: _Calls, expected: Any, temperature: str) -> None:
    gc.collect()  # a model of a test before that has it mapped
    for path in _files(folder):
        if temperature == "cold":
            testbed.evict(path)
        else:
            path.read_bytes()
    model = transformers.BertModel.from_pretrained(folder)
    count = len(_files(folder))
    assert calls["safe_open"] >= count
    assert calls["get_slice"] >= len(list(expected.named_parameters()))
    assert calls["__exit__"] >= count
    _assert_same_parameters(model, expected)
    _assert_same_answer(model, expected)


def test_from_pretrained_into_another_dtype(folder: Path, calls: _Calls, expected: Any) -> None:
    model = transformers.BertModel.from_pretrained(folder, dtype=torch.bfloat16)
    assert calls["get_slice"]
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, expected.get_parameter(name).to(torch.bfloat16))


def test_from_pretrained_without_a_mapping_takes_bytes(
    folder: Path, calls: _Calls, expected: Any
) -> None:
    model = transformers.BertModel.from_pretrained(folder, disable_mmap=True)
    assert calls["load"] == len(_files(folder))
    _assert_same_parameters(model, expected)


def test_a_damaged_checkpoint_is_not_loaded(
    calls: _Calls, saved: dict[tuple[str, bool], Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(saved["whole", True], tmp_path / "damaged"))
    name = "encoder.layer.3.output.dense.weight"
    flip(folder / "model.safetensors", fastio.open(folder).info(name).offset + 1000)
    with pytest.raises(fastio.ChecksumError) as caught:
        transformers.BertModel.from_pretrained(folder)
    assert name in caught.value.tensors
    assert calls["safe_open"]


def test_a_state_dict_of_transformers(
    saved: dict[tuple[str, bool], Path], sealed: bool, calls: _Calls
) -> None:
    path = saved["whole", sealed] / "model.safetensors"
    state = safetensors.torch.load_file(path)
    loaded = _MODELING.load_state_dict(path)
    assert calls["get_tensor"] == len(state)
    assert list(loaded) == sorted(state)
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    on_meta = _MODELING.load_state_dict(path, map_location="meta")
    assert calls["get_slice"] == len(state)
    assert {name: (one.shape, one.dtype) for name, one in on_meta.items()} == {
        name: (one.shape, one.dtype) for name, one in state.items()
    }


def test_from_pretrained_with_a_device_map(folder: Path, calls: _Calls, expected: Any) -> None:
    model = transformers.BertModel.from_pretrained(folder, device_map="cpu")
    assert calls["get_slice"]
    _assert_same_parameters(model, expected)
    _assert_same_answer(model, expected)


# Layers 4 and 5, and the embedding, which is half of the bytes, stay on the disk.
_DEVICES = {
    "embeddings": "disk",
    **{f"encoder.layer.{layer}": "cpu" for layer in range(4)},
    **{f"encoder.layer.{layer}": "disk" for layer in (4, 5)},
    "pooler": "cpu",
}


def test_from_pretrained_with_a_part_on_the_disk(
    folder: Path, calls: _Calls, expected: Any, tmp_path: Path
) -> None:
    model = transformers.BertModel.from_pretrained(
        folder, device_map=_DEVICES, offload_folder=tmp_path / "offload"
    )
    opened = calls["safe_open"]
    assert opened
    _assert_same_answer(model, expected)
    assert calls["safe_open"] > opened  # the tensors on the disk were read for the answer
    assert calls["get_tensor"]


def _blank() -> Any:
    with accelerate.init_empty_weights():
        return transformers.BertModel(_config())


@pytest.mark.parametrize("devices", [{"": "cpu"}, None], ids=["on one device", "without a map"])
def test_load_checkpoint_and_dispatch(
    folder: Path, calls: _Calls, expected: Any, devices: Any
) -> None:
    blank = _blank() if devices else transformers.BertModel(_config())
    # The checkpoint is chosen by its name, or that of its index.
    model = accelerate.load_checkpoint_and_dispatch(blank, folder, device_map=devices)
    assert calls["safe_open"] == calls["load_file"] == len(_files(folder))
    _assert_same_parameters(model, expected)
    _assert_same_answer(model, expected)


def test_load_checkpoint_and_dispatch_with_a_part_on_the_disk(
    folder: Path, calls: _Calls, expected: Any, tmp_path: Path
) -> None:
    model = accelerate.load_checkpoint_and_dispatch(
        _blank(), folder, device_map=_DEVICES, offload_folder=tmp_path / "offload"
    )
    assert calls["safe_open"] >= 2 * len(_files(folder))
    assert calls["get_tensor"]
    _assert_same_answer(model, expected)


def test_a_checkpoint_for_two_devices(
    saved: dict[tuple[str, bool], Path], sealed: bool, calls: _Calls
) -> None:
    path = saved["whole", sealed] / "model.safetensors"
    state = safetensors.torch.load_file(path)
    loaded = _ACCELERATE_MODELING.load_state_dict(str(path), device_map=_DEVICES)
    assert calls["get_tensor"] == len(state)
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


@pytest.mark.parametrize("renamed", [False, True])
def test_weights_that_were_offloaded(
    saved: dict[tuple[str, bool], Path], sealed: bool, calls: _Calls, renamed: bool
) -> None:
    path = saved["whole", sealed] / "model.safetensors"
    state = safetensors.torch.load_file(path)
    before = "bert." if renamed else ""
    index = {
        f"{before}{name}": {
            "safetensors_file": str(path),
            "dtype": "float16" if name.endswith("bias") else str(tensor.dtype).partition(".")[2],
            **({"weight_name": name} if renamed else {}),
        }
        for name, tensor in state.items()
    }
    weights = _ACCELERATE_OFFLOAD.OffloadedWeightsLoader(index=index)
    for name, tensor in state.items():
        loaded = weights[f"{before}{name}"]
        wanted = tensor.half() if name.endswith("bias") else tensor
        assert loaded.dtype == wanted.dtype
        assert torch.equal(loaded, wanted)
    assert calls["safe_open"] == calls["get_tensor"] == calls["__exit__"] == len(state)


def test_metadata_without_a_format_has_its_own_error(
    saved: dict[tuple[str, bool], Path], calls: _Calls, tmp_path: Path
) -> None:
    state = safetensors.torch.load_file(saved["whole", False] / "model.safetensors")
    for metadata, refused in ((None, False), ({"format": "pt"}, False), ({"format": "xx"}, True)):
        path = tmp_path / "model.safetensors"
        safetensors.torch.save_file(state, path, metadata=metadata)
        fastio.seal(path)
        if refused:
            with pytest.raises(OSError, match="valid metadata"):
                _ACCELERATE_MODELING.load_state_dict(str(path))
        else:
            _ACCELERATE_MODELING.load_state_dict(str(path))
    assert (calls["safe_open"], calls["load_file"]) == (3, 2)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    transformers.utils.logging.disable_progress_bar()
    yield
    transformers.utils.logging.enable_progress_bar()
