"""Who loads a file onto a GPU, and by which lines of code: what each project's documentation says.

The clock stops when the device has done all that was asked of it. What a contender pins or makes
once a process is in its time, as far as a load of a tiny file has not made it before.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from typing import Any

from bench.contender import Attempt, Load, Loader
from bench.gpu import DEVICE
from bench.gpu_answers import OnDevice

Tensors = Mapping[str, Any]


def _idle(path: str) -> Mapping[str, Any]:
    """Nothing of an earlier load is on the device, and its memory is counted from here on."""
    import torch

    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    return _counted_from_here()


def _counted_from_here() -> Mapping[str, Any]:
    import torch

    torch.cuda.reset_peak_memory_stats()
    free, _ = torch.cuda.mem_get_info()
    return {"free": free, "reserved": torch.cuda.memory_reserved()}


def _to_the_end(load: Callable[[Attempt], Tensors]) -> Load:
    """The load, until the device is done; and what it took of the device's memory."""

    def until_done(attempt: Attempt) -> Mapping[str, Any]:
        import torch

        tensors = load(attempt)
        torch.cuda.synchronize()
        free, _ = torch.cuda.mem_get_info()
        # Through torch's allocator at its peak; and at the end by whoever does not ask torch.
        by_torch = torch.cuda.max_memory_reserved() - attempt.given["reserved"]
        attempt.figures["device_bytes"] = max(by_torch, attempt.given["free"] - free)
        return OnDevice(tensors)

    return until_done


def _fastio(verify: bool) -> Callable[[Attempt], Tensors]:
    def load(attempt: Attempt) -> Tensors:
        import fastio
        from fastio import _native

        attempt.report = fastio.Report()
        pinning_s = _native.pinned_account()["seconds"]
        tensors: Tensors = fastio.load(
            attempt.path, framework="torch", device=DEVICE, verify=verify, report=attempt.report
        )
        account = _native.pinned_account()
        attempt.figures["pinning_s"] = account["seconds"] - pinning_s
        attempt.figures["pinned_bytes"] = account["nbytes"]
        attempt.figures["pinned_limit_bytes"] = fastio.Options().pinned_limit_bytes
        return tensors

    return load


def _unpinned(path: str) -> Mapping[str, Any]:
    """As in a process that has not loaded anything: the tiny file has left pinned memory."""
    import fastio

    fastio.trim()
    return _idle(path)


def _loaded_once(path: str) -> Mapping[str, Any]:
    """As in a process that has loaded this very file, and let go of it."""
    import torch

    import fastio

    fastio.load(path, framework="torch", device=DEVICE).clear()
    gc.collect()
    torch.cuda.synchronize()
    return _counted_from_here()


def _instanttensor(attempt: Attempt) -> Tensors:
    from instanttensor import safe_open

    with safe_open(attempt.path, framework="pt", device=0) as file:
        return dict(file.tensors())


def _fastsafetensors(attempt: Attempt) -> Tensors:
    import fastsafetensors

    with fastsafetensors.fastsafe_open(attempt.path, device=DEVICE, nogds=True) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _runai(attempt: Attempt) -> Tensors:
    from runai_model_streamer import SafetensorsStreamer

    with SafetensorsStreamer() as streamer:
        streamer.stream_file(attempt.path, device=DEVICE)
        return dict(streamer.get_tensors())


def _safetensors(attempt: Attempt) -> Tensors:
    import safetensors.torch

    tensors: Tensors = safetensors.torch.load_file(attempt.path, device=DEVICE)
    return tensors


def _loader(
    name: str,
    title: str,
    modules: tuple[str, ...],
    load: Callable[[Attempt], Tensors],
    prepare: Callable[[str], Mapping[str, Any]] = _idle,
) -> Loader:
    return Loader(
        name, title, ("torch", *modules), _to_the_end(load), place="nowhere", prepare=prepare
    )


RIVALS = ("instanttensor-gpu", "fastsafetensors-gpu", "runai-gpu", "safetensors-gpu")
LOADERS = (
    _loader("fastio-gpu", "fastio, to cuda", ("fastio",), _fastio(True), _unpinned),
    _loader(
        "fastio-gpu-again",
        "fastio, to cuda, the second load of a process",
        ("fastio",),
        _fastio(True),
        _loaded_once,
    ),
    _loader(
        "fastio-gpu-unverified",
        "fastio, to cuda, verify=False",
        ("fastio",),
        _fastio(False),
        _unpinned,
    ),
    _loader("instanttensor-gpu", "InstantTensor, to cuda", ("instanttensor",), _instanttensor),
    _loader(
        "fastsafetensors-gpu",
        "fastsafetensors, nogds, to cuda",
        ("fastsafetensors",),
        _fastsafetensors,
    ),
    _loader("runai-gpu", "Run:ai streamer, to cuda", ("runai_model_streamer",), _runai),
    _loader(
        "safetensors-gpu",
        "safetensors, to cuda",
        ("safetensors", "safetensors.torch"),
        _safetensors,
    ),
)
