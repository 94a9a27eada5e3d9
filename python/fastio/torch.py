"""safetensors.torch by fastio: change the import, and nothing else."""

from fastio.dropin.in_memory import deserialize
from fastio.dropin.safe_open import safe_open
from fastio.dropin.serialize import serialize, serialize_file
from fastio.dropin.specs import TensorSpec
from fastio.dropin.torch_files import load, load_file, save, save_file
from fastio.dropin.torch_models import load_model, save_model
from fastio.dropin.torch_names import (  # noqa: F401 (for those who import them from here)
    _SIZE,
    _TYPES,
    _find_shared_tensors,
    _getdtype,
    _is_complete,
    _remove_duplicate_names,
    _to_ndarray,
    _tobytes,
)
from fastio.dropin.torch_names import storage_ptr as storage_ptr  # noqa: PLC0414 (exported to mypy)
from fastio.dropin.torch_names import storage_size as storage_size  # noqa: PLC0414

__all__ = [
    "TensorSpec",
    "deserialize",
    "load",
    "load_file",
    "load_model",
    "safe_open",
    "save",
    "save_file",
    "save_model",
    "serialize",
    "serialize_file",
]


def __dir__() -> list[str]:
    return sorted(__all__)
