"""fastio: fast, verified, bounded loading of tensors."""

import importlib
from types import ModuleType

from fastio._native import __version__
from fastio.api import load, load_into, open
from fastio.catalog import TensorInfo
from fastio.errors import (
    ChecksumError,
    DtypeError,
    FastioError,
    FormatError,
    MemoryLimitError,
    ReadError,
    SelectionError,
    TensorNotFoundError,
    UsageError,
    WriteError,
)
from fastio.in_memory import deserialize
from fastio.options import Options
from fastio.reader import Reader, TensorView
from fastio.report import EngineReport, EngineStatus, Report, engine_report
from fastio.safe_open import SafetensorError, safe_open
from fastio.seal import seal

__all__ = [
    "ChecksumError",
    "DtypeError",
    "EngineReport",
    "EngineStatus",
    "FastioError",
    "FormatError",
    "MemoryLimitError",
    "Options",
    "ReadError",
    "Reader",
    "Report",
    "SafetensorError",
    "SelectionError",
    "TensorInfo",
    "TensorNotFoundError",
    "TensorView",
    "UsageError",
    "WriteError",
    "__version__",
    "deserialize",
    "engine_report",
    "load",
    "load_into",
    "open",
    "safe_open",
    "seal",
]


def __getattr__(name: str) -> ModuleType:
    """The modules that are imported when they are used."""
    if name in ("numpy", "torch", "uring"):
        return importlib.import_module(f"fastio.{name}")
    raise AttributeError(f"module 'fastio' has no attribute {name!r}")
