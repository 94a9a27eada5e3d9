"""Who is measured, and by which lines of code: what each project's own documentation says to write.

A contender loads a file into host memory and returns its tensors by name. Rivals run as installed,
with their defaults, but for what makes them run without a GPU.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Load = Callable[[str], Mapping[str, Any]]


@dataclass(frozen=True)
class Contender:
    """One way to load a file.

    Attributes
    ----------
    name : str
        How JSON calls it.
    title : str
        How tables and pictures call it.
    modules : tuple of str
        What is imported before the clock starts.
    load : callable
        From a path to tensors by name, or for a parser to names alone.
    maps : bool
        The tensors may lie in the page cache (they are mapped), so a cold load is not done before
        their pages have been read once.
    parses : bool
        It reads the header only.
    notes : dict
        What it said of its last load.
    """

    name: str
    title: str
    modules: tuple[str, ...]
    load: Load
    maps: bool = False
    parses: bool = False
    notes: dict[str, Any] = field(default_factory=dict)

    def missing(self) -> str | None:
        """Return why it cannot run here, or None if it can."""
        absent = [module for module in self.modules if not is_installed(module)]
        return f"{', '.join(absent)} not installed" if absent else None


def is_installed(module: str) -> bool:
    """Whether a module can be imported; a folder of that name without code is not one."""
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return False
    return found is not None and found.origin is not None


def _safetensors(framework: str, backend: str) -> Load:
    def load(path: str) -> Mapping[str, Any]:
        module = importlib.import_module(f"safetensors.{framework}")
        tensors: Mapping[str, Any] = module.load_file(path, backend=backend)
        return tensors

    return load


def _safe_open(path: str) -> Mapping[str, Any]:
    import safetensors

    # Left open, as a catalog of fastio's holds its files open.
    return _Names(safetensors.safe_open(path, framework="np").keys)


def _fastsafetensors(path: str) -> Mapping[str, Any]:
    import fastsafetensors

    with fastsafetensors.fastsafe_open(path, device="cpu", nogds=True) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _runai(path: str) -> Mapping[str, Any]:
    from runai_model_streamer import SafetensorsStreamer

    with SafetensorsStreamer() as streamer:
        streamer.stream_file(path)
        return dict(streamer.get_tensors())


class _Names(dict[str, None]):
    """Names that are asked for only after the clock has stopped, as a mapping to nothing."""

    def __init__(self, names: Callable[[], Any]) -> None:
        super().__init__()
        self._names = names

    def resolve(self) -> list[str]:
        return list(self._names())


def _locate(path: str) -> Mapping[str, Any]:
    from fastio.formats.huggingface import locate

    catalog = locate(path)
    return _Names(lambda: catalog)


_FASTIO_NOTES: dict[str, Any] = {}


def _fastio(framework: str, verify: bool, **options: Any) -> Load:
    def load(path: str) -> Mapping[str, Any]:
        import fastio

        report = fastio.Report()
        tensors: Mapping[str, Any] = fastio.load(
            path,
            framework=framework,
            verify=verify,
            options=fastio.Options(**options) if options else None,
            report=report,
        )
        _FASTIO_NOTES.update(report=report)
        return tensors

    return load


_TORCH = ("fastio", "torch")
_ALL = (
    Contender("fastio", "fastio", _TORCH, _fastio("torch", True), notes=_FASTIO_NOTES),
    Contender(
        "fastio-unverified",
        "fastio, verify=False",
        _TORCH,
        _fastio("torch", False),
        notes=_FASTIO_NOTES,
    ),
    Contender(
        "fastio-uring",
        "fastio, engine=uring",
        _TORCH,
        _fastio("torch", True, engine="uring"),
        notes=_FASTIO_NOTES,
    ),
    Contender(
        "fastio-pread",
        "fastio, engine=pread",
        _TORCH,
        _fastio("torch", True, engine="pread"),
        notes=_FASTIO_NOTES,
    ),
    Contender(
        "fastio-numpy",
        "fastio, numpy, verify=False",
        ("fastio", "numpy"),
        _fastio("numpy", False),
        notes=_FASTIO_NOTES,
    ),
    Contender(
        "fastio-numpy-verified",
        "fastio, numpy",
        ("fastio", "numpy"),
        _fastio("numpy", True),
        notes=_FASTIO_NOTES,
    ),
    Contender("fastio-locate", "fastio, header", ("fastio",), _locate, parses=True),
    Contender(
        "safetensors",
        "safetensors, touched",
        ("safetensors", "safetensors.torch", "torch"),
        _safetensors("torch", "mmap"),
        maps=True,
    ),
    Contender(
        "safetensors-pread",
        "safetensors, backend=pread",
        ("safetensors", "safetensors.torch", "torch"),
        _safetensors("torch", "pread"),
    ),
    Contender(
        "safetensors-numpy",
        "safetensors, numpy",
        ("safetensors", "safetensors.numpy", "numpy", "ml_dtypes"),
        _safetensors("numpy", "mmap"),
    ),
    Contender("safe-open", "safetensors.safe_open", ("safetensors",), _safe_open, parses=True),
    Contender("fastsafetensors", "fastsafetensors", ("fastsafetensors", "torch"), _fastsafetensors),
    Contender("runai", "Run:ai streamer", ("runai_model_streamer", "torch"), _runai),
)
CONTENDERS = {contender.name: contender for contender in _ALL}
# Not processes of ours: see fio.py.
FIO, FIO_HUGE = "fio", "fio-huge"
TITLES = {name: contender.title for name, contender in CONTENDERS.items()} | {
    FIO: "fio, io_uring, direct",
    FIO_HUGE: "fio, io_uring, direct, huge pages",
}
