"""The targets of loads onto a GPU, and their arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

from bench.contenders.gpu_loads import RIVALS
from bench.measure.limits import FIO, READER
from bench.measure.statistics import Estimate, median, paired_ratio
from bench.report.targets import (
    Document,
    Measure,
    NotMeasuredError,
    Target,
    memory_above_allowed,
    series,
    tensor_bytes,
)

STORAGE = (READER, FIO)
COPY = ("copy-pinned",)
CACHE = ("cache-read",)


def fastest(document: Document, case: str, names: Sequence[str]) -> list[float]:
    """Return the seconds of the contender with the least median.

    Raises
    ------
    NotMeasuredError
        None of them took part.
    """
    found = []
    for name in names:
        try:
            found.append(series(document, case, name))
        except NotMeasuredError:
            continue
    if not found:
        raise NotMeasuredError(f"{case}: {', '.join(names)}")
    return min(found, key=median)


def of_the_slowest(case: str, name: str, *limits: Sequence[str]) -> Measure:
    """Measure the speed relative to the slowest limit, each by its fastest way, by round."""

    def measure(document: Document) -> Estimate:
        each = [fastest(document, case, names) for names in limits]
        slowest = [max(of_round) for of_round in zip(*each, strict=True)]
        return paired_ratio(slowest, series(document, case, name))

    return measure


def of_the_best(case: str, name: str, rivals: Sequence[str]) -> Measure:
    """Measure the speed relative to the best rival that took part, by round."""
    return lambda document: paired_ratio(
        fastest(document, case, rivals), series(document, case, name)
    )


def device_beside_tensors(case: str, name: str) -> Measure:
    """Measure the most device memory beyond the tensors, in percent of the tensors."""

    def measure(document: Document) -> Estimate:
        tensors = tensor_bytes(document, case)
        taken = series(document, case, name, "device_bytes")
        return Estimate(100 * (max(taken) - tensors) / tensors, None, len(taken))

    return measure


def pinning_share(case: str, name: str) -> Measure:
    """Measure the share of pinning in the time of a load, in percent, by round."""
    return lambda document: Estimate.of(
        [
            100 * pinning_s / seconds
            for pinning_s, seconds in zip(
                series(document, case, name, "pinning_s"), series(document, case, name), strict=True
            )
        ]
    )


_COLD, _WARM, _OURS = "gpu-cold", "gpu-warm", "fastio-gpu"
TARGETS = (
    Target(
        _COLD,
        "cold, beside the slower of storage and pinned copies",
        ">=",
        0.95,
        "x",
        of_the_slowest(_COLD, _OURS, STORAGE, COPY),
    ),
    Target(
        _WARM,
        "warm, beside the slower of pinned copies and reads from the cache",
        ">=",
        0.9,
        "x",
        of_the_slowest(_WARM, _OURS, CACHE, COPY),
    ),
    *(
        Target(
            case,
            f"{state}, beside the best rival",
            ">=",
            1.1,
            "x",
            of_the_best(case, _OURS, RIVALS),
        )
        for case, state in ((_COLD, "cold"), (_WARM, "warm"))
    ),
    Target(
        _COLD,
        "pinned memory above its limit",
        "<=",
        0.0,
        "MiB",
        memory_above_allowed(_COLD, _OURS, "pinned_bytes", "pinned_limit_bytes"),
        exact=True,
    ),
    Target(
        _COLD,
        "memory of the device beside the tensors",
        "<=",
        1.0,
        "%",
        device_beside_tensors(_COLD, _OURS),
        exact=True,
    ),
    # Second and later loads: the first load of a process is kept apart.
    Target(
        _WARM,
        "time that a second load spends pinning",
        "<=",
        5.0,
        "%",
        pinning_share(_WARM, _OURS),
    ),
)
