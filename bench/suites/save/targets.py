"""The targets of saves."""

from __future__ import annotations

from bench.report.targets import (
    Target,
    at_least,
    memory_beside_tensors,
    milliseconds,
    percent_more,
)

TARGETS = (
    at_least("save-llama", "durable, beside fio with end_fsync", 0.95, "fastio-save", "fio-write"),
    Target(
        "save-llama",
        "time of checksums",
        "<=",
        5.0,
        "%",
        percent_more("save-llama", "fastio-save", "fastio-save-unsummed"),
    ),
    Target(
        "save-memory",
        "peak memory beside the tensors",
        "<=",
        64.0,
        "MiB",
        memory_beside_tensors("save-memory", "fastio-save"),
        exact=True,
    ),
    at_least(
        "save-many",
        "100,000 tensors: torch, durable, beside safetensors and fsync",
        2.0,
        "fastio-save",
        "safetensors-save-fsync",
    ),
    at_least(
        "save-many",
        "100,000 tensors: numpy, durable, beside safetensors and fsync",
        2.0,
        "fastio-save-numpy",
        "safetensors-save-numpy-fsync",
    ),
    # The goal says only "safetensors". This is the stricter reading.
    at_least(
        "save-many",
        "100,000 tensors: torch, durable, beside safetensors without fsync",
        2.0,
        "fastio-save",
        "safetensors-save",
    ),
    at_least(
        "save-many",
        "100,000 tensors: numpy, durable, beside safetensors without fsync",
        2.0,
        "fastio-save-numpy",
        "safetensors-save-numpy",
    ),
    Target(
        "save-background",
        "start_save, snapshot=borrow returns",
        "<=",
        10.0,
        "ms",
        milliseconds("save-background", "fastio-save-borrow"),
    ),
    # "At the speed of memcpy" is the goal: within a tenth of it.
    at_least(
        "save-background",
        "start_save, snapshot=copy, beside a copy of each by numpy",
        0.9,
        "fastio-save-copy",
        "copy-each",
    ),
    at_least(
        "save-background",
        "start_save, snapshot=copy, beside one copy by two threads",
        0.9,
        "fastio-save-copy",
        "copy-threads",
    ),
)
