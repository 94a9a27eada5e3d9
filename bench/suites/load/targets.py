"""The targets of whole loads."""

from __future__ import annotations

from bench.report.targets import (
    Target,
    at_least,
    cpu_a_gb,
    cpu_more_a_gb,
    import_ms,
    memory_above_tensors,
    not_slower,
    percent_more,
)

# fio runs in the same rounds, with searched settings and buffers on huge pages.
TARGETS = (
    at_least("llama-cold", "cold, verified, beside fio", 0.95, "fastio", "fio"),
    Target(
        "llama-cold",
        "all CPU of a cold load",
        "<=",
        0.8,
        "CPU s/GB",
        cpu_a_gb("llama-cold", "fastio"),
    ),
    Target(
        "llama-cold",
        "time of verification",
        "<=",
        5.0,
        "%",
        percent_more("llama-cold", "fastio", "fastio-unverified"),
    ),
    Target(
        "llama-cold",
        "CPU of verification",
        "<=",
        0.1,
        "CPU s/GB",
        cpu_more_a_gb("llama-cold", "fastio", "fastio-unverified"),
    ),
    at_least(
        "llama-warm",
        "warm, verify=False, beside safetensors touched",
        0.9,
        "fastio-unverified",
        "safetensors",
    ),
    Target(
        "memory",
        "peak memory above the tensors",
        "<=",
        64.0,
        "MiB",
        memory_above_tensors("memory", "fastio"),
        exact=True,
    ),
    not_slower("minilm-cold", "MiniLM cold, verified", "fastio", "safetensors"),
    not_slower("minilm-warm", "MiniLM warm, verify=False", "fastio-unverified", "safetensors"),
    not_slower("small-cold", "100 KB cold, verified", "fastio", "safetensors"),
    not_slower("small-warm", "100 KB warm, verify=False", "fastio-unverified", "safetensors"),
    not_slower(
        "many-header", "100,000 tensors: header beside safe_open", "fastio-locate", "safe-open"
    ),
    not_slower(
        "many-warm",
        "100,000 tensors: warm, verify=False, torch, beside load_file",
        "fastio-unverified",
        "safetensors",
    ),
    not_slower(
        "many-warm",
        "100,000 tensors: warm, verify=False, numpy, beside load_file",
        "fastio-numpy",
        "safetensors-numpy",
    ),
    Target("import", "import fastio over numpy", "<=", 50.0, "ms", import_ms),
)
