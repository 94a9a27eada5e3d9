"""The cases of reading in parts and as a stream, and their contenders."""

from __future__ import annotations

from bench.measure.limits import FIO
from bench.suites.campaign.case import LoadCase
from bench.suites.campaign.suite import Suite
from bench.suites.reader.targets import TARGETS

GETTERS = ("fastio-get", "fastio-get-unverified", "safetensors-get")
CASES = (
    LoadCase(
        "get-cold",
        "get_tensor in a loop: 2.47 GB, cold",
        "llama",
        (*GETTERS, "fastio", FIO),
        cold=True,
    ),
    LoadCase(
        "get-warm",
        "get_tensor in a loop: 2.47 GB, warm, touched",
        "llama",
        (*GETTERS, "fastio"),
        cold=False,
    ),
    LoadCase(
        "get-many",
        "get_tensor in a loop: 100,000 tensors of 4 KiB, warm, touched",
        "many",
        GETTERS,
        cold=False,
    ),
    LoadCase(
        "slices-cold",
        "1 % of the rows of every tensor: of 2.47 GB, cold, touched",
        "llama",
        (
            "fastio-slices",
            "fastio-slices-unverified",
            "fastio-get-slice",
            "safetensors-slices",
        ),
        cold=True,
        touched=True,
    ),
    LoadCase(
        "into-cold",
        "Into arrays that are there: 2.47 GB, cold",
        "llama",
        (
            "fastio-into",
            "fastio-into-unverified",
            "fastio-into-aligned",
            "fastio-into-aligned-unverified",
            "fastio-into-numpy",
            "safetensors-copy",
            FIO,
        ),
        cold=True,
    ),
    LoadCase(
        "stream-cold",
        "Tensor by tensor, each dropped: 2.47 GB, cold",
        "llama",
        ("fastio-stream", "fastio-stream-unverified", "fastio", "safetensors-stream", FIO),
        cold=True,
    ),
    LoadCase(
        "stream-memory",
        "Peak memory, tensor by tensor, each dropped: 2.47 GB, cold",
        "llama",
        ("fastio-stream", "fastio-stream-unverified", "safetensors-stream"),
        cold=True,
        memory=True,
        over_time=True,
    ),
    LoadCase(
        "frameworks-cold",
        "Whole loads as torch and as numpy: 2.47 GB, cold",
        "llama",
        ("fastio", "fastio-numpy-verified"),
        cold=True,
    ),
    LoadCase(
        "frameworks-warm",
        "Whole loads as torch and as numpy: 2.47 GB, warm, touched",
        "llama",
        ("fastio", "fastio-numpy-verified"),
        cold=False,
    ),
)

SUITE = Suite("reader", CASES, TARGETS)
