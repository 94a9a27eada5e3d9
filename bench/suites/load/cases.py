"""The cases of whole loads and their contenders."""

from __future__ import annotations

from bench.measure.limits import FIO
from bench.suites.campaign.case import LoadCase
from bench.suites.campaign.suite import Suite
from bench.suites.load.targets import TARGETS

RIVALS = ("fastsafetensors", "runai", "safetensors", "safetensors-rc")

CASES = (
    LoadCase(
        "llama-cold",
        "2.47 GB, Llama-3.2-1B shapes in bf16, cold",
        "llama",
        ("fastio", "fastio-unverified", "fastio-pread", *RIVALS, FIO),
        cold=True,
    ),
    LoadCase(
        "llama-warm",
        "2.47 GB, Llama-3.2-1B shapes in bf16, warm, touched",
        "llama",
        ("fastio", "fastio-unverified", *RIVALS),
        cold=False,
    ),
    LoadCase(
        "memory",
        "Peak memory: 2.47 GB, cold",
        "llama",
        ("fastio", *RIVALS),
        cold=True,
        memory=True,
    ),
    LoadCase(
        "minilm-cold",
        "90 MB, all-MiniLM-L6-v2, cold",
        "minilm",
        ("fastio", "fastio-unverified", "fastio-pread", *RIVALS),
        cold=True,
    ),
    LoadCase(
        "minilm-warm",
        "90 MB, all-MiniLM-L6-v2, warm, touched",
        "minilm",
        ("fastio", "fastio-unverified", *RIVALS),
        cold=False,
    ),
    LoadCase(
        "small-cold",
        "100 KB, cold",
        "small",
        ("fastio", "fastio-unverified", *RIVALS),
        cold=True,
        repeats=7,
    ),
    LoadCase(
        "small-warm",
        "100 KB, warm, touched",
        "small",
        ("fastio", "fastio-unverified", *RIVALS),
        cold=False,
        repeats=7,
    ),
    LoadCase(
        "many-header",
        "100,000 tensors: header parse and catalog, warm",
        "many",
        ("fastio-locate", "safe-open"),
        cold=False,
        repeats=3,
    ),
    LoadCase(
        "many-warm",
        "100,000 tensors of 4 KiB, warm, touched",
        "many",
        ("fastio", "fastio-unverified", "fastio-numpy", "safetensors", "safetensors-numpy"),
        cold=False,
    ),
)
# Fresh interpreters instead of files; `imports` measures them.
IMPORT = "import"

SUITE = Suite("load", CASES, TARGETS, others=(IMPORT,))
