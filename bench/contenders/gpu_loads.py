"""Loaders onto a GPU, each called as its project's documentation shows.

The clock stops when the device is idle. A contender's process lives through all rounds, and its
first load is kept apart: it pins memory and fills allocators. In a rehearsal the same lines run on
the device `cpu`, as far as they can.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.contenders import prepared
from bench.contenders.contender import RC_SITE, RC_VERSION, Attempt, Load, Loader
from bench.measure import answers, gpu
from bench.measure.gpu_answers import OnDevice

Tensors = Mapping[str, Any]


def synchronize() -> None:
    """Wait until the device is idle."""
    import torch

    if not gpu.is_rehearsal():
        torch.cuda.synchronize()


def _idle(path: str) -> Mapping[str, Any]:
    """Free the memory of earlier loads on the device, and count from here on."""
    import torch

    gc.collect()
    if gpu.is_rehearsal():
        return {}
    synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    free, _ = torch.cuda.mem_get_info()
    return {"free": free, "reserved": torch.cuda.memory_reserved()}


def _account(attempt: Attempt) -> None:
    """Note the device's memory: the larger of torch's peak and the device's loss of free memory.

    Some contenders do not use torch's allocator.
    """
    import torch

    if gpu.is_rehearsal():
        attempt.figures["device_bytes"] = 0
        return
    free, _ = torch.cuda.mem_get_info()
    by_torch = torch.cuda.max_memory_reserved() - attempt.given["reserved"]
    attempt.figures["device_bytes"] = max(by_torch, attempt.given["free"] - free)


def _to_the_end(load: Callable[[Attempt], Tensors]) -> Load:
    """Return a load that ends when the device is idle."""

    def until_done(attempt: Attempt) -> Mapping[str, Any]:
        tensors = load(attempt)
        synchronize()
        return OnDevice(tensors)

    return until_done


def _with_pinned_account(load: Callable[[Attempt], Tensors]) -> Callable[[Attempt], Tensors]:
    """Return a load by fastio that notes the size of its pinned pool, and the time of pinning."""

    def counted(attempt: Attempt) -> Tensors:
        import fastio
        from fastio import _native

        attempt.report = fastio.Report()
        before_s = _native.pinned_account()["seconds"]
        tensors = load(attempt)
        account = _native.pinned_account()
        attempt.figures["pinning_s"] = account["seconds"] - before_s
        attempt.figures["pinned_bytes"] = account["nbytes"]
        attempt.figures["pinned_limit_bytes"] = fastio.Options().pinned_limit_bytes
        return tensors

    return counted


def _fastio(verify: bool) -> Callable[[Attempt], Tensors]:
    def load(attempt: Attempt) -> Tensors:
        import fastio

        tensors: Tensors = fastio.load(
            attempt.path,
            framework="torch",
            device=gpu.device(),
            verify=verify,
            report=attempt.report,
        )
        return tensors

    return _with_pinned_account(load)


def _parameters(path: str) -> Mapping[str, Any]:
    """Return a model's parameters on the device, filled with ones.

    No file holds ones, so a load that fills nothing is a wrong answer.
    """
    given = dict(_idle(path))
    parameters = prepared.empty_torch(answers.file_entries(Path(path)), device=gpu.device())
    for tensor in parameters.values():
        tensor.fill_(1)
    synchronize()
    return given | {"parameters": parameters}


def _fastio_into(attempt: Attempt) -> Tensors:
    import fastio

    parameters: dict[str, Any] = attempt.given["parameters"]
    fastio.load_into(attempt.path, parameters, report=attempt.report)
    return parameters


def _instanttensor(attempt: Attempt) -> Tensors:
    from instanttensor import safe_open

    with safe_open(attempt.path, framework="pt", device=gpu.device()) as file:
        return dict(file.tensors())


def _fastsafetensors(attempt: Attempt) -> Tensors:
    import fastsafetensors

    device = gpu.device()
    with fastsafetensors.fastsafe_open(attempt.path, device=device, nogds=True) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _runai(attempt: Attempt) -> Tensors:
    from runai_model_streamer import SafetensorsStreamer

    with SafetensorsStreamer() as streamer:
        streamer.stream_file(attempt.path, device=gpu.device())
        return dict(streamer.get_tensors())


def _safetensors(attempt: Attempt) -> Tensors:
    import safetensors.torch

    tensors: Tensors = safetensors.torch.load_file(attempt.path, device=gpu.device())
    return tensors


def _prefetched(attempt: Attempt) -> Tensors:
    import safetensors

    with (
        safetensors.safe_open(attempt.path, framework="pt") as file,
        file.prefetch(device=gpu.device()) as loader,
    ):
        return dict(loader)


def _loader(
    name: str,
    title: str,
    modules: tuple[str, ...],
    load: Callable[[Attempt], Tensors],
    prepare: Callable[[str], Mapping[str, Any]] = _idle,
    site: str = "",
) -> Loader:
    return Loader(
        name,
        title,
        ("torch", *modules),
        _to_the_end(load),
        place="nowhere",
        prepare=prepare,
        account=_account,
        site=site,
    )


RIVALS = (
    *("instanttensor-gpu", "fastsafetensors-gpu", "runai-gpu"),
    *("safetensors-gpu", "safetensors-rc-gpu"),
)
# They accept no other device, so a rehearsal goes without them.
GPU_ONLY = ("instanttensor-gpu", "safetensors-rc-gpu")
LOADERS = (
    _loader("fastio-gpu", "fastio, to cuda", ("fastio",), _fastio(True)),
    _loader("fastio-gpu-unverified", "fastio, to cuda, verify=False", ("fastio",), _fastio(False)),
    _loader(
        "fastio-gpu-into",
        "fastio.load_into, parameters on cuda",
        ("fastio",),
        _with_pinned_account(_fastio_into),
        _parameters,
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
    _loader(
        "safetensors-rc-gpu",
        f"safetensors {RC_VERSION}, prefetch, to cuda",
        ("safetensors", "safetensors.torch"),
        _prefetched,
        site=RC_SITE,
    ),
)
