"""safetensors.numpy by fastio: change the import, and nothing else."""

from fastio.dropin.in_memory import deserialize
from fastio.dropin.numpy_files import (  # noqa: F401 (other projects import _getdtype and _TYPES)
    _TYPES,
    _getdtype,
    load,
    load_file,
    save,
    save_file,
)
from fastio.dropin.safe_open import safe_open
from fastio.dropin.serialize import serialize, serialize_file
from fastio.dropin.specs import TensorSpec

__all__ = [
    "TensorSpec",
    "deserialize",
    "load",
    "load_file",
    "safe_open",
    "save",
    "save_file",
    "serialize",
    "serialize_file",
]


def __dir__() -> list[str]:
    return sorted(__all__)
