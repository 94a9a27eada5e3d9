"""Loaders of whole files, each called as its project's documentation shows.

A contender loads a file into host memory and returns its tensors by name. Rivals run with their
installed defaults, except for settings that let them run without a GPU.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from bench.contenders.contender import RC_SITE, RC_VERSION, Answer, Attempt, Load, Loader
from bench.measure import answers

if TYPE_CHECKING:
    from fastio.frameworks import FrameworkName


class _Names(Answer):
    """Names of tensors, digested after the clock has stopped."""

    def __init__(self, names: Callable[[], Iterable[str]]) -> None:
        super().__init__()
        self._names = names

    def digest(self) -> str:
        return answers.names_digest(self._names())


def _safetensors(framework: str, backend: str) -> Load:
    def load(attempt: Attempt) -> Mapping[str, Any]:
        module = importlib.import_module(f"safetensors.{framework}")
        tensors: Mapping[str, Any] = module.load_file(attempt.path, backend=backend)
        return tensors

    return load


def _safe_open(attempt: Attempt) -> Mapping[str, Any]:
    import safetensors

    # Left open, because a catalog of fastio keeps its files open.
    return _Names(safetensors.safe_open(attempt.path, framework="np").keys)


def _fastsafetensors(attempt: Attempt) -> Mapping[str, Any]:
    import fastsafetensors

    with fastsafetensors.fastsafe_open(attempt.path, device="cpu", nogds=True) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _runai(attempt: Attempt) -> Mapping[str, Any]:
    from runai_model_streamer import SafetensorsStreamer

    with SafetensorsStreamer() as streamer:
        streamer.stream_file(attempt.path)
        return dict(streamer.get_tensors())


def _locate(attempt: Attempt) -> Mapping[str, Any]:
    from fastio.formats.huggingface import locate

    catalog = locate(attempt.path)
    return _Names(lambda: catalog)


def _fastio(framework: FrameworkName, verify: bool, **options: Any) -> Load:
    def load(attempt: Attempt) -> Mapping[str, Any]:
        import fastio

        attempt.report = fastio.Report()
        tensors: Mapping[str, Any] = fastio.load(
            attempt.path,
            framework=framework,
            verify=verify,
            options=fastio.Options(**options) if options else None,
            report=attempt.report,
        )
        return tensors

    return load


_TORCH = ("fastio", "torch")
LOADERS = (
    Loader("fastio", "fastio", _TORCH, _fastio("torch", True)),
    Loader("fastio-unverified", "fastio, verify=False", _TORCH, _fastio("torch", False)),
    Loader("fastio-pread", "fastio, engine=pread", _TORCH, _fastio("torch", True, engine="pread")),
    Loader(
        "fastio-numpy",
        "fastio, numpy, verify=False",
        ("fastio", "numpy"),
        _fastio("numpy", False),
    ),
    Loader("fastio-numpy-verified", "fastio, numpy", ("fastio", "numpy"), _fastio("numpy", True)),
    Loader("fastio-locate", "fastio, header", ("fastio",), _locate, gives="names"),
    Loader(
        "safetensors",
        "safetensors, touched",
        ("safetensors", "safetensors.torch", "torch"),
        _safetensors("torch", "mmap"),
        place="mapped",
    ),
    Loader(
        "safetensors-rc",
        f"safetensors {RC_VERSION}, touched",
        ("safetensors", "safetensors.torch", "torch"),
        _safetensors("torch", "mmap"),
        place="mapped",
        site=RC_SITE,
    ),
    Loader(
        "safetensors-numpy",
        "safetensors, numpy",
        ("safetensors", "safetensors.numpy", "numpy", "ml_dtypes"),
        _safetensors("numpy", "mmap"),
    ),
    Loader("safe-open", "safetensors.safe_open", ("safetensors",), _safe_open, gives="names"),
    Loader("fastsafetensors", "fastsafetensors", ("fastsafetensors", "torch"), _fastsafetensors),
    Loader("runai", "Run:ai streamer", ("runai_model_streamer", "torch"), _runai),
)
