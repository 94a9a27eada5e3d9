"""safetensors.tensorflow by fastio: change the import, and nothing else."""

from fastio.dropin.array_files import ArrayFiles
from fastio.dropin.in_memory import deserialize
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

_FILES = ArrayFiles("tensorflow")
load, load_file, save, save_file = _FILES.load, _FILES.load_file, _FILES.save, _FILES.save_file
