"""The cases of stores. `measures` measures each, since disks have to be made for them."""

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
