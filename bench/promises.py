"""What was promised: the targets of each script."""

from __future__ import annotations

from bench.targets import (
    MIB,
    Target,
    cpu_a_gb,
    cpu_more_a_gb,
    import_ms,
    memory_above_allowed,
    memory_above_tensors,
    memory_beside_tensors,
    milliseconds,
    percent_apart,
    percent_more,
    read_beyond_needed,
    slowness,
    speed,
)


def _at_least(case: str, text: str, bound: float, name: str, rival: str) -> Target:
    return Target(case, text, ">=", bound, "x", speed(case, name, rival))


def _not_slower(case: str, text: str, name: str, rival: str) -> Target:
    return Target(case, text, "<=", 1.0, "x its time", slowness(case, name, rival))


# Beside fio in the same run: its settings are searched, its buffers lie on huge pages.
LOAD_TARGETS = (
    _at_least("llama-cold", "cold, verified, beside fio", 0.95, "fastio", "fio"),
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
    _at_least(
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
    _not_slower("minilm-cold", "MiniLM cold, verified", "fastio", "safetensors"),
    _not_slower("minilm-warm", "MiniLM warm, verify=False", "fastio-unverified", "safetensors"),
    _not_slower("small-cold", "100 KB cold, verified", "fastio", "safetensors"),
    _not_slower("small-warm", "100 KB warm, verify=False", "fastio-unverified", "safetensors"),
    _not_slower(
        "many-header", "100,000 tensors: header beside safe_open", "fastio-locate", "safe-open"
    ),
    _not_slower(
        "many-warm",
        "100,000 tensors: warm, verify=False, torch, beside load_file",
        "fastio-unverified",
        "safetensors",
    ),
    _not_slower(
        "many-warm",
        "100,000 tensors: warm, verify=False, numpy, beside load_file",
        "fastio-numpy",
        "safetensors-numpy",
    ),
    Target("import", "import fastio over numpy", "<=", 50.0, "ms", import_ms),
)


def _cpu_at_most(case: str, text: str, bound: float, name: str) -> Target:
    return Target(case, text, "<=", bound, "CPU s/GB", cpu_a_gb(case, name))


READER_TARGETS = (
    _at_least(
        "get-cold", "get_tensor in a loop, cold, verified, beside fio", 0.9, "fastio-get", "fio"
    ),
    _at_least(
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
    _at_least(
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
    _at_least("into-cold", "load_into, cold, verified, beside fio", 0.85, "fastio-into", "fio"),
    _at_least(
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
    _at_least(
        "stream-cold",
        "stream, cold, verified, beside the whole load",
        0.9,
        "fastio-stream",
        "fastio",
    ),
    # The tensor that the caller has in hand is in the peak: it is not allowed for apart.
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

SAVE_TARGETS = (
    _at_least("save-llama", "durable, beside fio with end_fsync", 0.95, "fastio-save", "fio-write"),
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
    _at_least(
        "save-many",
        "100,000 tensors: torch, durable, beside safetensors and fsync",
        2.0,
        "fastio-save",
        "safetensors-save-fsync",
    ),
    _at_least(
        "save-many",
        "100,000 tensors: numpy, durable, beside safetensors and fsync",
        2.0,
        "fastio-save-numpy",
        "safetensors-save-numpy-fsync",
    ),
    # The promise says only "safetensors": this is its stricter reading.
    _at_least(
        "save-many",
        "100,000 tensors: torch, durable, beside safetensors without fsync",
        2.0,
        "fastio-save",
        "safetensors-save",
    ),
    _at_least(
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
    # "At the speed of memcpy" was promised: within a tenth of it.
    _at_least(
        "save-background",
        "start_save, snapshot=copy, beside a copy of each by numpy",
        0.9,
        "fastio-save-copy",
        "copy-each",
    ),
    _at_least(
        "save-background",
        "start_save, snapshot=copy, beside one copy by two threads",
        0.9,
        "fastio-save-copy",
        "copy-threads",
    ),
)

STORE_TARGETS = (
    _at_least("store-one-root", "one root, beside the same file", 0.97, "fastio-store", "fastio"),
    _at_least("store-disks", "two disks, beside one", 1.9, "store-2", "store-1"),
    _at_least("store-disks", "three disks, beside one", 2.8, "store-3", "store-1"),
    Target(
        "store-replica",
        "1 % of the chunks of one replica damaged: more time",
        "<=",
        10.0,
        "%",
        percent_more("store-replica", "store-damaged", "store-sound"),
    ),
    # Its share of the bandwidth is half of it.
    Target(
        "store-replica",
        "one of two roots missing: its time over that of both",
        "<=",
        2.0,
        "x",
        slowness("store-replica", "store-gone", "store-sound"),
    ),
    _at_least(
        "store-save",
        "two replicas to two disks, beside one to one",
        0.9,
        "store-save-2",
        "store-save-1",
    ),
    Target(
        "store-open",
        "opening 100,000 tensors in 1,000 shards",
        "<=",
        1000.0,
        "ms",
        milliseconds("store-open", "store-open-100000"),
    ),
    _at_least("store-verify", "verifying a store, beside fio", 0.9, "store-verify", "fio"),
    Target(
        "store-verify",
        "verifying a store: peak memory",
        "<=",
        128.0,
        "MiB",
        memory_beside_tensors("store-verify", "store-verify", "peak_rss_bytes"),
        exact=True,
    ),
)
