"""All contenders by name, for suites and for the worker that calls them."""

from __future__ import annotations

from bench.contenders import gpu_limits, gpu_loads, loads, readers, saves
from bench.contenders.contender import Contender
from bench.measure.limits import LIMITS

LOADERS = {
    each.name: each
    for each in (
        *loads.LOADERS,
        *readers.READERS,
        *gpu_loads.LOADERS,
        *gpu_limits.LIMITS,
    )
}
SAVERS = {each.name: each for each in saves.SAVERS}
CONTENDERS: dict[str, Contender] = {**LOADERS, **SAVERS}
# The suite `store` measures these by itself.
STORES = {
    "fastio-store": "a store of one root",
    "store-1": "one disk",
    "store-2": "two disks",
    "store-3": "three disks",
    "store-sound": "both replicas sound",
    "store-damaged": "1 % of the chunks of one damaged",
    "store-gone": "one root missing",
    "store-save-1": "one replica to one disk",
    "store-save-2": "two replicas to two disks",
    "store-verify": "Store.verify, one shard",
    "store-verify-shards": "Store.verify, shards of the usual size",
    **{f"store-open-{count}": f"{count:,} tensors" for count in (1000, 10**4, 10**5, 10**6)},
}
TITLES = {name: contender.title for name, contender in CONTENDERS.items()} | {
    **{limit.name: limit.title for limit in LIMITS.values()},
    **STORES,
}
