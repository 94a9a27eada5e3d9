"""The targets of reading in parts and as a stream."""

from __future__ import annotations

from bench.report.targets import (
    MIB,
    Target,
    at_least,
    cpu_a_gb,
    memory_above_allowed,
    percent_apart,
    read_beyond_needed,
    slowness,
)


def _cpu_at_most(case: str, text: str, bound: float, name: str) -> Target:
    return Target(case, text, "<=", bound, "CPU s/GB", cpu_a_gb(case, name))


TARGETS = (
    at_least(
        "get-cold", "get_tensor in a loop, cold, verified, beside fio", 0.9, "fastio-get", "fio"
    ),
    at_least(
        "get-warm",
        "get_tensor in a loop, warm, verify=False, beside safetensors touched",
        0.9,
        "fastio-get-unverified",
        "safetensors-get",
    ),
    Target(
        "get-many",
        "100,000 tensors: get_tensor, warm, verify=False, the loop alone",
        "<=",
        1.3,
        "x its time",
        slowness("get-many", "fastio-get-unverified", "safetensors-get", "loop_s"),
    ),
    at_least(
        "slices-cold",
        "1 % of all rows, cold, verified, beside safetensors touched",
        1.5,
        "fastio-slices",
        "safetensors-slices",
    ),
    Target(
        "slices-cold",
        "1 % of all rows: read beyond what is needed, verified",
        "<=",
        2.0,
        "MiB a slice",
        read_beyond_needed("slices-cold", "fastio-slices", MIB),
        exact=True,
    ),
    Target(
        "slices-cold",
        "1 % of all rows: read beyond what is needed, verify=False",
        "<=",
        8.0,
        "KiB a slice",
        read_beyond_needed("slices-cold", "fastio-slices-unverified", 1024),
        exact=True,
    ),
    at_least("into-cold", "load_into, cold, verified, beside fio", 0.85, "fastio-into", "fio"),
    at_least(
        "into-cold",
        "load_into aligned arrays, cold, verified, beside fio",
        0.95,
        "fastio-into-aligned",
        "fio",
    ),
    _cpu_at_most("into-cold", "CPU of load_into, verify=False", 0.30, "fastio-into-unverified"),
    _cpu_at_most("into-cold", "CPU of load_into, verified", 0.40, "fastio-into"),
    _cpu_at_most(
        "into-cold",
        "CPU of load_into aligned arrays, verify=False",
        0.30,
        "fastio-into-aligned-unverified",
    ),
    _cpu_at_most(
        "into-cold", "CPU of load_into aligned arrays, verified", 0.40, "fastio-into-aligned"
    ),
    at_least(
        "stream-cold",
        "stream, cold, verified, beside the whole load",
        0.9,
        "fastio-stream",
        "fastio",
    ),
    # The peak includes the tensor that the caller holds.
    Target(
        "stream-memory",
        "stream: peak memory above the limit, or the largest tensor",
        "<=",
        64.0,
        "MiB",
        memory_above_allowed("stream-memory", "fastio-stream"),
        exact=True,
    ),
    Target(
        "frameworks-cold",
        "numpy and torch, cold, verified, apart",
        "<=",
        3.0,
        "%",
        percent_apart("frameworks-cold", "fastio-numpy-verified", "fastio"),
    ),
    Target(
        "frameworks-warm",
        "numpy and torch, warm, verified, apart",
        "<=",
        3.0,
        "%",
        percent_apart("frameworks-warm", "fastio-numpy-verified", "fastio"),
    ),
)
