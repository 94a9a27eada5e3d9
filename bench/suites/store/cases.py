"""The cases of stores. `measures` measures them, since it has to set up disks."""

from __future__ import annotations

from bench.suites.campaign.suite import Suite
from bench.suites.store.targets import TARGETS

CASES = (
    "store-one-root",
    "store-disks",
    "store-replica",
    "store-save",
    "store-open",
    "store-verify",
)

SUITE = Suite("store", (), TARGETS, others=CASES)
