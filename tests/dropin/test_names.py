"""fastio under the names of safetensors: every name that others import exists and works."""

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

import fastio
import fastio.numpy
import fastio.torch
import testbed

# Their signatures are not checked: most are not public.
_FASTIO: Any = fastio
_TORCH: Any = fastio.torch
_NUMPY: Any = fastio.numpy

# A release of transformers, accelerate, peft, diffusers, huggingface_hub, vLLM or torch itself
# imports each of them.
_NAMES = {
    "": (
        "SafetensorError safe_open serialize serialize_file deserialize TensorSpec TensorMeta "
        "PySafeSlice _safe_open_handle __version__"
    ),
    "torch": (
        "load load_file load_model save save_file save_model safe_open storage_ptr storage_size "
        "_getdtype _find_shared_tensors _remove_duplicate_names _is_complete _tobytes _to_ndarray "
        "_TYPES _SIZE"
    ),
    "numpy": "load load_file save save_file _getdtype _TYPES",
}
_LIBRARIES = ("transformers", "accelerate", "huggingface_hub", "peft", "diffusers")


def _object(module: str, name: str) -> object:
    """fastio's object for a name of safetensors."""
    owner = importlib.import_module("fastio" + module.removeprefix("safetensors"))
    return getattr(owner, name)


@pytest.mark.parametrize("module", _NAMES)
def test_each_name_that_others_import_exists(module: str) -> None:
    owner = f"safetensors.{module}" if module else "safetensors"
    for name in _NAMES[module].split():
        assert _object(owner, name) is not None


def _files(library: str) -> Iterator[Path]:
    found = importlib.util.find_spec(library)
    if found is not None and found.submodule_search_locations:
        for folder in found.submodule_search_locations:
            yield from Path(folder).rglob("*.py")


def _taken(path: Path) -> Iterator[tuple[str, str]]:
    """The safetensors modules and names that a file imports."""
    text = path.read_text(encoding="utf-8", errors="ignore")
    if "safetensors" not in text:
        return
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except SyntaxError:  # a template
        return
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "safetensors":
            yield from ((str(node.module), alias.name) for alias in node.names)
        elif isinstance(node, ast.Attribute):
            owner, _, name = ast.unparse(node).rpartition(".")
            if owner in ("safetensors", "safetensors.torch", "safetensors.numpy"):
                yield owner, name


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
@pytest.mark.parametrize("library", [*_LIBRARIES, "torch.distributed"])
def test_every_name_that_an_installed_library_imports_exists(library: str) -> None:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    taken = {pair for path in _files(library) for pair in _taken(path)}
    assert taken
    lacking = []
    for module, name in sorted(taken):
        try:
            _object(module, name)
        except (AttributeError, ImportError):
            lacking.append(f"{module}.{name}")
    assert lacking == []


_SWAPPED = """
import importlib.util, os, sys
os.environ["HF_HUB_OFFLINE"] = "1"
import fastio, fastio.numpy, fastio.torch
sys.modules["safetensors"] = fastio
sys.modules["safetensors.torch"] = fastio.torch
sys.modules["safetensors.numpy"] = fastio.numpy
"""


@pytest.mark.parametrize(
    "module",
    [
        "transformers.modeling_utils",
        "transformers.trainer",
        "accelerate.checkpointing",
        "huggingface_hub.hub_mixin",
        "peft.utils.save_and_load",
        "diffusers.models.modeling_utils",
        "torch.distributed.checkpoint.quantized_hf_storage",
    ],
)
def test_it_is_imported_in_the_place_of_safetensors(module: str) -> None:
    if importlib.util.find_spec(module.split(".", maxsplit=1)[0]) is None:
        pytest.skip(f"{module.split('.', maxsplit=1)[0]} is not installed")
    code = f"{_SWAPPED}\nimport {module}\nprint(fastio is sys.modules['safetensors'])"
    assert testbed.run_python(code).check().stdout.split()[-1] == "True"


def test_dcp_saves_and_loads_through_it(tmp_path: Path) -> None:
    code = f"""
{_SWAPPED}
import torch, torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
state = {{"a": torch.arange(12.).reshape(3, 4), "b": torch.ones(3).bfloat16()}}
writer = HuggingFaceStorageWriter(sys.argv[1], fqn_to_index_mapping=dict.fromkeys(state, 1))
dcp.save(state, storage_writer=writer, no_dist=True)
found = {{name: torch.zeros_like(tensor) for name, tensor in state.items()}}
dcp.load(found, storage_reader=HuggingFaceStorageReader(sys.argv[1]), no_dist=True)
print(all(torch.equal(found[name], state[name]) for name in state))
"""
    assert testbed.run_python(code, tmp_path).check().stdout.split()[-1] == "True"


# ---- behaviour ----------------------------------------------------------------------------------


def _state() -> dict[str, torch.Tensor]:
    whole = torch.arange(24.0)
    return {
        "whole": whole,
        "same": whole,
        "half": whole[:12],
        "turned": whole.reshape(4, 6),
        "alone": torch.ones(3, dtype=torch.bfloat16),
        "meta": torch.ones(3, device="meta"),
        "empty": torch.ones(0),
    }


def test_names_for_shared_memory_raise_the_errors_of_safetensors() -> None:
    state = _state()
    theirs: Any = safetensors.torch
    ours = _TORCH
    for tensor in state.values():
        assert ours.storage_ptr(tensor) == theirs.storage_ptr(tensor)
        assert ours.storage_size(tensor) == theirs.storage_size(tensor)
        assert ours._is_complete(tensor) == theirs._is_complete(tensor)
    groups: list[Any] = [
        sorted(map(sorted, each._find_shared_tensors(state))) for each in (theirs, ours)
    ]
    assert groups[0] == groups[1]
    for arguments in (
        {},
        {"preferred_names": ["turned"]},
        {"discard_names": ["same", "turned"]},
        {"preferred_names": ["same"], "discard_names": ["same", "whole", "turned"]},
    ):
        found = [each._remove_duplicate_names(state, **arguments) for each in (theirs, ours)]
        assert dict(found[0]) == dict(found[1])
    parts = {"a": torch.arange(9.0)[:3]}
    for each in (theirs, ours):
        with pytest.raises(RuntimeError):
            each._remove_duplicate_names(parts)


def test_dtypes_and_bytes_have_their_names() -> None:
    assert _TORCH._TYPES == {**safetensors.torch._TYPES, **_TORCH._TYPES}
    for name, dtype in safetensors.torch._TYPES.items():
        assert _TORCH._getdtype(name) is dtype
        assert _TORCH._SIZE[dtype] == safetensors.torch._SIZE[dtype]
    for module in (_TORCH, _NUMPY):
        with pytest.raises(KeyError):
            module._getdtype("F3")
    assert _NUMPY._getdtype("F16") == np.float16
    for tensor in (torch.arange(6.0).reshape(2, 3), torch.tensor(3), torch.ones(0, 2)):
        assert _TORCH._tobytes(tensor, "w") == tensor.numpy().tobytes()
    bf16 = torch.ones(3).bfloat16()
    assert _TORCH._to_ndarray(bf16)[0].tobytes() == bf16.view(torch.int16).numpy().tobytes()
    for tensor in (torch.eye(3).to_sparse(), torch.ones(2, 3).t()):
        with pytest.raises(ValueError, match="'the one'"):
            _TORCH._tobytes(tensor, "the one")


@pytest.mark.parametrize("checksums", [True, False], ids=["sealed", "plain"])
def test_the_header_of_a_tensor_is_had_without_its_data(tmp_path: Path, checksums: bool) -> None:
    """safetensors 0.9 has `get_tensor_meta`."""
    tensors: dict[str, Any] = {
        "a": np.ones((2, 3), np.float32),
        "b": np.ones(5, np.int8),
        "e": np.ones((0, 2)),
    }
    path = fastio.save(tensors, tmp_path / "file", checksums=checksums)
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    with fastio.safe_open(path, "np") as file:
        for name, array in tensors.items():
            meta = file.get_tensor_meta(name)
            assert isinstance(meta, fastio.TensorMeta)
            assert meta.shape == list(array.shape)
            begin, end = meta.data_offsets
            assert raw[start + begin : start + end] == array.tobytes()
        assert file.get_tensor_meta("b").dtype == "I8"
        assert isinstance(file.get_slice("a"), fastio.PySafeSlice)
        with pytest.raises(fastio.TensorNotFoundError):
            file.get_tensor_meta("c")
    with pytest.raises(fastio.UsageError):
        file.get_tensor_meta("a")


def test_a_file_that_python_has_open_is_read(tmp_path: Path) -> None:
    path = fastio.save({"w": np.arange(3)}, tmp_path / "file")
    with path.open("rb") as file:
        with _FASTIO._safe_open_handle(file, "np") as opened:
            assert isinstance(opened, fastio.safe_open)
            assert opened.get_tensor("w").tolist() == [0, 1, 2]
        with open(file.fileno(), "rb", closefd=False) as same:
            opened = _FASTIO._safe_open_handle(
                f=same, framework="pt", device="cpu", backend="pread"
            )
            assert opened.get_tensor("w").tolist() == [0, 1, 2]
    for nothing in (3, None, path.read_bytes()):
        with pytest.raises(TypeError, match="f must be a file with a name"):
            _FASTIO._safe_open_handle(nothing, "np")
