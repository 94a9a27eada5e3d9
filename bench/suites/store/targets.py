"""The targets of stores."""

from __future__ import annotations

from bench.report.targets import (
    Target,
    at_least,
    memory_beside_tensors,
    milliseconds,
    percent_more,
    slowness,
)

TARGETS = (
    at_least("store-one-root", "one root, beside the same file", 0.97, "fastio-store", "fastio"),
    at_least("store-disks", "two disks, beside one", 1.9, "store-2", "store-1"),
    at_least("store-disks", "three disks, beside one", 2.8, "store-3", "store-1"),
    Target(
        "store-replica",
        "1 % of the chunks of one replica damaged: more time",
        "<=",
        10.0,
        "%",
        percent_more("store-replica", "store-damaged", "store-sound"),
    ),
    # One root has half of the bandwidth.
    Target(
        "store-replica",
        "one of two roots missing: its time over that of both",
        "<=",
        2.0,
        "x",
        slowness("store-replica", "store-gone", "store-sound"),
    ),
    at_least(
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
    at_least("store-verify", "verifying a store, beside fio", 0.9, "store-verify", "fio"),
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
