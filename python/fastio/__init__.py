"""fastio: fast, verified, bounded loading of tensors."""

from fastio._native import __version__
from fastio.api import load
from fastio.catalog import TensorInfo
from fastio.errors import (
    ChecksumError,
    FastioError,
    FormatError,
    MemoryLimitError,
    ReadError,
    TensorNotFoundError,
    WriteError,
)
from fastio.options import Options
from fastio.report import EngineReport, EngineStatus, Report, engine_report
from fastio.seal import seal

__all__ = [
    "ChecksumError",
    "EngineReport",
    "EngineStatus",
    "FastioError",
    "FormatError",
    "MemoryLimitError",
    "Options",
    "ReadError",
    "Report",
    "TensorInfo",
    "TensorNotFoundError",
    "WriteError",
    "__version__",
    "engine_report",
    "load",
    "seal",
]
