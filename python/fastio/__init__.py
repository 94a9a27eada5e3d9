"""fastio: fast, verified, bounded loading and saving of tensors."""

import importlib
from typing import TYPE_CHECKING, Any

from fastio._native import __version__
from fastio.api import load, load_into, save, start_load, start_save, verify
from fastio.api import open as open  # public, though not in __all__
from fastio.catalog import TensorInfo
from fastio.catalog.encodings import Decoding
from fastio.dropin.in_memory import deserialize
from fastio.dropin.safe_open import (  # noqa: F401 (safetensors has _safe_open_handle, too)
    PySafeSlice,
    SafetensorError,
    TensorMeta,
    _safe_open_handle,
    safe_open,
)
from fastio.dropin.serialize import serialize, serialize_file
from fastio.dropin.specs import TensorSpec
from fastio.errors import (
    ChecksumError,
    ConflictError,
    DeviceError,
    DtypeError,
    FastioError,
    FormatError,
    MemoryLimitError,
    ReadError,
    ReplicaError,
    SelectionError,
    StaleError,
    TensorNotFoundError,
    UsageError,
    WriteError,
)
from fastio.frameworks import import_those_in_use
from fastio.options import Options
from fastio.reading.devices import trim
from fastio.reading.findings import Verification
from fastio.reading.handle import LoadEvent, LoadHandle
from fastio.reading.reader import Reader
from fastio.reading.view import TensorView
from fastio.report import LaneTimes, Report
from fastio.report.engines import EngineReport, EngineStatus, engine_report
from fastio.report.events import Event, on_event
from fastio.saving.seal import seal

if TYPE_CHECKING:
    from fastio.api.convert import convert
    from fastio.dropin.hierarchy import File
    from fastio.saving.background import SaveHandle
    from fastio.store.store import Store

# What `from fastio import *` gives. Not `fastio.open`: it would take the place of Python's own.
__all__ = [
    "ChecksumError",
    "ConflictError",
    "Decoding",
    "DeviceError",
    "DtypeError",
    "EngineReport",
    "EngineStatus",
    "Event",
    "FastioError",
    "File",
    "FormatError",
    "LaneTimes",
    "LoadEvent",
    "LoadHandle",
    "MemoryLimitError",
    "Options",
    "PySafeSlice",
    "ReadError",
    "Reader",
    "ReplicaError",
    "Report",
    "SafetensorError",
    "SaveHandle",
    "SelectionError",
    "StaleError",
    "Store",
    "TensorInfo",
    "TensorMeta",
    "TensorNotFoundError",
    "TensorSpec",
    "TensorView",
    "UsageError",
    "Verification",
    "WriteError",
    "__version__",
    "convert",
    "deserialize",
    "engine_report",
    "load",
    "load_into",
    "on_event",
    "safe_open",
    "save",
    "seal",
    "serialize",
    "serialize_file",
    "start_load",
    "start_save",
    "trim",
    "verify",
]

# A process may give up its rights, or its view of the filesystem, before a call needs them.
import_those_in_use()

_MODULES = ("flax", "mlx", "numpy", "paddle", "tensorflow", "torch", "uring")


def __getattr__(name: str) -> Any:
    """Names that are imported at their first use."""
    if name in _MODULES:
        return importlib.import_module(f"fastio.{name}")
    if name == "convert":
        return importlib.import_module("fastio.api.convert").convert
    if name == "File":
        return importlib.import_module("fastio.dropin.hierarchy").File
    if name == "Store":
        return importlib.import_module("fastio.store.store").Store
    if name == "SaveHandle":
        return importlib.import_module("fastio.saving.background").SaveHandle
    raise AttributeError(f"module 'fastio' has no attribute {name!r}")


def __dir__() -> list[str]:
    needs = {"numpy": "numpy", "torch": "torch", "uring": "fastio._uring"}
    return sorted([*__all__, "open", *(name for name in needs if _is_there(needs[name]))])


def _is_there(module: str) -> bool:
    from importlib.util import find_spec

    try:
        return find_spec(module) is not None
    except ValueError:  # an entry that was put into sys.modules by hand
        return True
