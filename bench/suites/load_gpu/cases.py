"""The cases of loads onto a GPU and their contenders."""

from __future__ import annotations

from bench.measure import gpu
from bench.measure.limits import READER
from bench.suites.campaign.case import GpuCase
from bench.suites.campaign.suite import Suite
from bench.suites.load_gpu.targets import TARGETS

# At most six loaders, since each holds memory of the GPU through all rounds.
_ONTO_GPU = (
    "fastio-gpu",
    "fastio-gpu-unverified",
    "fastio-gpu-into",
    "instanttensor-gpu",
    "runai-gpu",
    "safetensors-rc-gpu",
    "copy-pinned",
)
CASES = (
    GpuCase(
        "gpu-cold",
        "2.47 GB, Llama-3.2-1B shapes in bf16, onto the GPU, cold",
        "llama",
        (*_ONTO_GPU, READER),
        cold=True,
    ),
    GpuCase(
        "gpu-warm",
        "2.47 GB, Llama-3.2-1B shapes in bf16, onto the GPU, warm",
        "llama",
        (*_ONTO_GPU, "cache-read"),
        cold=False,
    ),
)

SUITE = Suite(
    "load-gpu",
    CASES,
    TARGETS,
    describe=gpu.describe,
    slug=gpu.slug,
)
