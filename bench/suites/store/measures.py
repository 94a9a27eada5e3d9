"""The measurements of each case of the store: disks, damage, order, answers."""

from __future__ import annotations

import contextlib
import datetime
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import MeasureError
from bench.measure import answers, cache, machine, models
from bench.measure.guest_memory import Ballast
from bench.measure.limits import FIO, LIMITS
from bench.measure.rounds import rounds
from bench.measure.statistics import median
from bench.measure.workers import STORE_WORKER, Worker
from bench.suites.campaign.limit_settings import settings_of
from bench.suites.store.cases import SUITE
from bench.suites.store.disks import slow_disks

Log = Callable[[str], None]
# The rate of each disk: one of them reads the model in some seconds.
DISK_BYTES_S = 400_000_000
_MODEL = "llama"
_DISK_BYTES = 6 * 2**30
_OPENED = (1_000, 10_000, 100_000, 1_000_000)
_TENSORS_A_SHARD = 100
_ONE_SHARD_BYTES = 2**34  # above any model of the suite
_TIMEOUT_S = 600


class Series:
    """The figures of each contender, round by round."""

    def __init__(self, title: str) -> None:
        self._values: dict[str, dict[str, list[float]]] = {}
        self.failed: dict[str, str] = {}
        self.document: dict[str, Any] = {
            "title": title,
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "versions": machine.versions(),
            "missing": {},
            "failed": self.failed,
        }

    def add(self, name: str, answer: dict[str, Any]) -> None:
        """Keep the figures of one answer."""
        of_one = self._values.setdefault(name, {})
        for field in ("seconds", "cpu_s", "peak_rss_bytes", "held_bytes", "fallbacks"):
            if field in answer:
                of_one.setdefault(field, []).append(round(answer[field], 6))

    def result(self, count: int, **about: Any) -> dict[str, Any]:
        """Return the JSON of the case."""
        nbytes = about.get("tensor_bytes")
        contenders = {}
        for name, series in self._values.items():
            if name in self.failed:
                continue
            middle = median(series["seconds"])
            speed = {"gb_per_s": round(nbytes / middle / 1e9, 4)} if nbytes else {}
            contenders[name] = {"median_s": round(middle, 6), **speed, **series}
        return {**self.document, **about, "rounds": count, "contenders": contenders}


def ask(
    order: dict[str, Any],
    ballast: Ballast | None = None,
    make_ready: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Give a fresh process one job. Files and memory are prepared after its imports.

    Parameters
    ----------
    order : dict
        The job of `store_worker`.
    ballast : Ballast, optional
        Memory that is freed right before the job. None for unmeasured jobs.
    make_ready : callable
        Prepares files and roots.

    Raises
    ------
    MeasureError
        It failed. The message has its last output.
    """
    with Worker(order, _TIMEOUT_S, STORE_WORKER) as worker:
        worker.ask({"do": "prepare"})
        make_ready()
        if ballast is None:
            return worker.ask({"do": "measure"})
        ballast.free()
        try:
            return worker.ask({"do": "measure"})
        finally:
            ballast.fill()


def one_root(folder: Path, count: int, log: Log) -> dict[str, Any]:
    """Measure a store of one root beside the same tensors in one file, cold and verified."""
    with _work(folder) as work:
        path = _model(work)
        root = work / "root"
        ask({"do": "save", "source": str(path), "roots": [str(root)], "replicas": 1})
        orders: dict[str, dict[str, Any]] = {
            "fastio": {"do": "load", "source": str(path), "roots": None},
            "fastio-store": {"do": "load", "roots": [str(root)]},
        }
        series = Series("A store of one root beside one file, 2.47 GB, cold, verified")
        return _loads(series, orders, path, [path, *_shards(root)], count, log)


def several_disks(folder: Path, count: int, log: Log) -> dict[str, Any]:
    """Measure stores of one, two and three disks of 400 MB/s each."""
    with _work(folder) as work, slow_disks(work / "disks", 3, _DISK_BYTES) as disks:
        path = _model(work)
        orders = {}
        for used in (1, 2, 3):
            roots = [str(disk / f"of{used}") for disk in disks.paths[:used]]
            ask({"do": "save", "source": str(path), "roots": roots, "replicas": 1})
            orders[f"store-{used}"] = {"do": "load", "roots": roots, "group": str(disks.group)}
        disks.hold_to(DISK_BYTES_S)
        used_roots = (root for each in orders.values() for root in each["roots"])
        cold = [shard for root in used_roots for shard in _shards(root)]
        series = Series("Disks of 400 MB/s, one replica: 2.47 GB, cold, verified")
        return _loads(series, orders, path, cold, count, log)


def bad_replica(folder: Path, count: int, log: Log) -> dict[str, Any]:
    """Measure two replicas on two disks of 400 MB/s: both sound, one damaged, one missing."""
    with _work(folder) as work, slow_disks(work / "disks", 2, _DISK_BYTES) as disks:
        path = _model(work)
        sound, damaged = ([str(disk / name) for disk in disks.paths] for name in ("sound", "bad"))
        for roots in (sound, damaged):
            ask({"do": "save", "source": str(path), "roots": roots, "replicas": 2})
        log(f"{_damage(_shards(damaged[1]))} chunks were damaged")
        orders = {
            "store-sound": {"do": "load", "roots": sound, "group": str(disks.group)},
            "store-damaged": {"do": "load", "roots": damaged, "group": str(disks.group)},
            "store-gone": {"do": "load", "roots": sound[:1], "group": str(disks.group)},
        }
        disks.hold_to(DISK_BYTES_S)
        cold = [shard for roots in (sound, damaged) for root in roots for shard in _shards(root)]
        series = Series("Two replicas on two disks of 400 MB/s: 2.47 GB, cold, verified")
        hidden = Path(sound[1])

        def before(name: str) -> None:
            # The root is renamed, since a store finds a root in its last place.
            if name == "store-gone":
                hidden.rename(hidden.with_name("away"))

        def after(name: str) -> None:
            if name == "store-gone":
                hidden.with_name("away").rename(hidden)

        return _loads(series, orders, path, cold, count, log, before, after)


def saves(folder: Path, count: int, log: Log) -> dict[str, Any]:
    """Measure saves of two replicas to two disks of 400 MB/s, and of one replica to one."""
    with _work(folder) as work, slow_disks(work / "disks", 2, _DISK_BYTES) as disks:
        path = _model(work)
        tensor_bytes = answers.tensor_bytes(path)
        disks.hold_to(DISK_BYTES_S)
        series = Series("Saves to disks of 400 MB/s, 2.47 GB, durable")

        def save(name: str, ballast: Ballast) -> dict[str, Any]:
            replicas = int(name[-1])
            roots = [disk / "root" for disk in disks.paths[:replicas]]
            asked: dict[str, Any] = {"do": "save", "source": str(path), "replicas": replicas}
            asked |= {"roots": [str(root) for root in roots], "group": str(disks.group)}
            answer = ask(asked, ballast)
            for root in roots:
                shutil.rmtree(root)
            return answer

        _measure(series, ("store-save-1", "store-save-2"), tensor_bytes, count, log, save)
        return series.result(count, tensor_bytes=tensor_bytes)


def opening(folder: Path, count: int, log: Log) -> dict[str, Any]:
    """Measure opening stores of more and more tensors. Their shards are missing."""
    with _work(folder) as work:
        orders = {}
        for tensors in _OPENED:
            root = work / f"of{tensors}"
            _simulate(root, tensors)
            orders[f"store-open-{tensors}"] = {"do": "open", "roots": [str(root)]}
        series = Series(f"Opening a store, {_TENSORS_A_SHARD} tensors a shard")

        def open_one(name: str, ballast: Ballast) -> dict[str, Any]:
            answer = ask(orders[name], ballast)
            if answer["tensors"] != int(name.rpartition("-")[2]):
                raise MeasureError(f"{name}: {answer['tensors']} tensors")
            return answer

        _measure(series, tuple(orders), 0, count, log, open_one)
        return series.result(count)


def verifying(folder: Path, count: int, log: Log) -> dict[str, Any]:
    """Measure Store.verify of one root beside fio, which only reads the same file.

    The first store has one shard, as fio reads one file. A second store has shards of the usual
    size. After the rounds one bit is flipped, and has to be found.
    """
    fio = LIMITS[FIO]
    if why := fio.missing():
        raise MeasureError(f"{FIO}: {why}")
    with _work(folder) as work:
        path = _model(work)
        known: dict[str, Any] = {"machine": SUITE.describe(folder), "limits": {}}
        settings = settings_of(fio, known, SUITE, lambda: path, log)
        assert settings is not None
        roots = {"store-verify": work / "whole", "store-verify-shards": work / "shards"}
        saved: dict[str, Any] = {"do": "save", "source": str(path), "replicas": 1}
        ask({**saved, "roots": [str(roots["store-verify"])], "shard_bytes": _ONE_SHARD_BYTES})
        ask({**saved, "roots": [str(roots["store-verify-shards"])]})
        (whole,) = _shards(roots["store-verify"])
        cold = [shard for root in roots.values() for shard in _shards(root)]
        nbytes = whole.stat().st_size
        title = f"Verifying a store of one root beside fio, {nbytes / 1e9:.2f} GB, cold"
        series = Series(title)
        series.document["limits"] = known["limits"]

        def make_ready() -> None:
            for file in cold:
                cache.evict(file)

        def verify(name: str, ballast: Ballast | None) -> dict[str, Any]:
            order = {"do": "verify", "roots": [str(roots[name])]}
            return ask(order, ballast, make_ready)

        def one(name: str, ballast: Ballast) -> dict[str, Any]:
            if name == FIO:
                make_ready()
                ballast.free()
                try:
                    found = fio.run(whole, settings, nbytes)
                finally:
                    ballast.fill()
                return {"seconds": nbytes / found["bytes_per_s"], "cpu_s": found["cpu_s"]}
            answer = verify(name, ballast)
            if answer["damaged"] or answer["nbytes"] < nbytes:
                series.failed[name] = "wrong answer"
            return answer

        _measure(series, (*roots, FIO), nbytes, count, log, one)
        for name, root in roots.items():
            damaged = _shards(root)[0]
            _flip_last(damaged)
            if verify(name, None)["damaged"] != [str(damaged)]:
                series.failed[name] = "wrong answer"
        return series.result(count, tensor_bytes=nbytes, settings=settings.text())


def _flip_last(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-1, 2)
        byte = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([byte[0] ^ 1]))


def _loads(
    series: Series,
    orders: dict[str, dict[str, Any]],
    path: Path,
    cold: Sequence[Path],
    count: int,
    log: Log,
    before: Callable[[str], None] = lambda name: None,
    after: Callable[[str], None] = lambda name: None,
) -> dict[str, Any]:
    expected = answers.file_digest(path)
    tensor_bytes = answers.tensor_bytes(path)

    def make_ready(name: str) -> None:
        for file in cold:
            cache.evict(file)
        before(name)

    def load(name: str, ballast: Ballast) -> dict[str, Any]:
        try:
            answer = ask(orders[name], ballast, partial(make_ready, name))
        finally:
            after(name)
        if answer["digest"] != expected:
            series.failed[name] = "wrong answer"
        return answer

    _measure(series, tuple(orders), tensor_bytes, count, log, load)
    return series.result(count, tensor_bytes=tensor_bytes)


def _measure(
    series: Series,
    names: Sequence[str],
    tensor_bytes: int,
    count: int,
    log: Log,
    one: Callable[[str, Ballast], dict[str, Any]],
) -> None:
    """Measure each contender in each round, with memory held in between."""
    with Ballast(tensor_bytes) as ballast:
        for at, order in enumerate(rounds(names, count)):
            for name in order:
                series.add(name, one(name, ballast))
            log(f"round {at + 1} of {count}")


@contextlib.contextmanager
def _work(folder: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=folder, prefix="store-") as name:
        yield Path(name)


def _model(folder: Path) -> Path:
    path = models.make(_MODEL, folder)
    import fastio

    fastio.seal(path)
    return path


def _shards(root: Path | str) -> list[Path]:
    return sorted((Path(root) / "shards").iterdir())


def _damage(shards: Sequence[Path]) -> int:
    """Damage one chunk of a hundred, at fixed random places, and return their number."""
    draw = np.random.default_rng(7)
    count = 0
    for shard in shards:
        with shard.open("r+b") as file:
            start = 8 + int.from_bytes(file.read(8), "little")
            chunks = (shard.stat().st_size - start) // 2**20
            for chunk in np.flatnonzero(draw.random(chunks) < 0.01).tolist():
                file.seek(start + chunk * 2**20 + 12345)
                byte = file.read(1)
                file.seek(-1, 1)
                file.write(bytes([byte[0] ^ 1]))
                count += 1
    return count


def _simulate(root: Path, tensors: int) -> None:
    """Create a store whose manifest names missing shards."""
    import msgspec

    import fastio
    from fastio.store import manifest
    from fastio.store.commit import Session
    from fastio.store.manifest import ShardEntry
    from fastio.store.members import Members

    fastio.Store.create([root], replicas=1).close()
    members = Members([root])
    entries = []
    nbytes = 4 * 256
    for first in range(0, tensors, _TENSORS_A_SHARD):
        described = {
            f"model.layers.{at // 100}.mlp.experts.{at}.weight": {
                "dtype": "F32",
                "shape": [16, 16],
                "data_offsets": [(at - first) * nbytes, (at - first + 1) * nbytes],
            }
            for at in range(first, first + _TENSORS_A_SHARD)
        }
        entries.append(
            ShardEntry(
                file=f"{first:08d}.{first:016x}.safetensors",
                nbytes=16384 + _TENSORS_A_SHARD * nbytes,
                start=16384,
                digest=f"{first:064x}",
                roots=(0,),
                tensors=msgspec.Raw(msgspec.json.encode(described)),
            )
        )
    roots = list(members.roots.values())
    with Session(members.store, roots, {}, [root.uuid for root in roots]) as session:
        assert session.head is not None
        named = manifest.encode(
            msgspec.structs.replace(session.head.manifest, shards=tuple(entries))
        )
        session.commit(named, 0)
    members.close()
