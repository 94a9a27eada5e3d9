"""The cases of saves and their contenders."""

from __future__ import annotations

from bench.measure.limits import FIO_WRITE
from bench.suites.campaign.case import SaveCase
from bench.suites.campaign.suite import Suite
from bench.suites.save.targets import TARGETS

SAVE_RIVALS = (
    "safetensors-save",
    "safetensors-save-fsync",
    "torch-save",
    "torch-save-fsync",
)
CASES = (
    SaveCase(
        "save-llama",
        "2.47 GB, Llama-3.2-1B shapes in bf16, to a new file",
        "llama",
        (
            "fastio-save",
            "fastio-save-unsummed",
            "fastio-save-pread",
            "fastio-save-not-durable",
            *SAVE_RIVALS,
            FIO_WRITE,
        ),
    ),
    SaveCase(
        "save-memory",
        "Peak memory beside the tensors: 2.47 GB to a new file",
        "llama",
        ("fastio-save", "fastio-save-pread", "safetensors-save", "torch-save"),
        memory=True,
    ),
    SaveCase(
        "save-many",
        "100,000 tensors of 4 KiB, to a new file",
        "many",
        (
            "fastio-save",
            "fastio-save-numpy",
            "safetensors-save",
            "safetensors-save-fsync",
            "safetensors-save-numpy",
            "safetensors-save-numpy-fsync",
        ),
    ),
    SaveCase(
        "save-background",
        "In the background: until the call returns, 2.47 GB",
        "llama",
        ("fastio-save-borrow", "fastio-save-copy", "copy-each", "copy-threads"),
    ),
)

SUITE = Suite(
    "save",
    CASES,
    TARGETS,
)
