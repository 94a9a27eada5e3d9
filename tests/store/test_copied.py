"""Roots at other paths than in their manifest: copies of a store, stores that were moved, links.

A copy has the UUIDs of its original, whose path is in its manifests. It never joins its original.
"""

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pytest

import fastio
from fastio.store import creation
from fastio.store.commit import Session
from fastio.store.root import Root
from store.dying import Dying
from store.samples import create


def _tensors(seed: int) -> dict[str, Any]:
    return {f"t{at}": np.full(50_000, 10 * seed + at) for at in range(4)}


def _seed_of(found: Any) -> int:
    seeds = {(int(found[f"t{at}"][0]) - at) // 10 for at in range(4)}
    (seed,) = seeds
    return seed


def _roots(folder: Path, count: int = 2) -> list[Path]:
    return [folder / f"root{at}" for at in range(count)]


@contextmanager
def _events() -> Iterator[list[fastio.Event]]:
    told: list[fastio.Event] = []
    before = fastio.on_event(told.append)
    try:
        yield told
    finally:
        fastio.on_event(before)


@pytest.fixture
def original(tmp_path: Path) -> Path:
    """A store of two roots that holds 1; and a copy of it, made before 2 was saved."""
    folder = tmp_path / "original"
    with create(folder) as store:
        store.save(_tensors(1))
        shutil.copytree(folder, tmp_path / "copy")
        store.save(_tensors(2))
    return folder


@pytest.fixture
def copy(original: Path) -> Path:
    return original.parent / "copy"


@pytest.mark.parametrize("first", [0, 1])
def test_a_copy_that_is_opened_by_one_root_joins_no_root_of_its_original(
    original: Path, copy: Path, first: int
) -> None:
    report = fastio.Report()
    assert _seed_of(fastio.load(_roots(copy)[first], report=report)) == 1
    assert any("is not where its manifest says" in line for line in report.fallbacks)
    assert any("fastio.Store.adopt" in line for line in report.fallbacks)
    with _events() as told, fastio.Store.open(_roots(copy)[first]) as store:
        assert any("is not where its manifest says" in event.cause for event in told)
        assert sorted(store.roots) == _roots(copy)  # which was copied as well
        assert store.save(_tensors(9)) == 2
        assert store.gc().generations == (1, 0)
    assert _seed_of(fastio.load(_roots(original)[first])) == 2
    assert _seed_of(fastio.load(_roots(copy)[first])) == 9


def test_a_single_root_that_was_copied_finds_nothing_and_says_how_to_go_on(
    original: Path, tmp_path: Path
) -> None:
    """At the path of the other root beside it there is nothing, or the original's root."""
    for place in (tmp_path / "elsewhere" / "root0", original / "root0.copy"):
        shutil.copytree(original / "root0", place)
        report = fastio.Report()
        assert _seed_of(fastio.load(place, report=report)) == 2  # it has all of it
        assert any("give the paths of all roots" in line for line in report.fallbacks)
        with fastio.Store.open(place) as store:
            assert store.roots == (place,)
            with pytest.raises(fastio.ReplicaError, match=r"give the paths of all roots"):
                store.save(_tensors(9))
            assert store.status().degraded
    assert _seed_of(fastio.load(original / "root1")) == 2


def test_a_copy_without_its_original_is_opened_by_one_root(original: Path, copy: Path) -> None:
    shutil.rmtree(original)
    with fastio.Store.open(copy / "root1") as store:
        assert sorted(store.roots) == _roots(copy)
        assert store.save(_tensors(3)) == 2
    with _events() as told, fastio.Store.open(copy / "root0") as store:
        assert (_seed_of(store.load()), told) == (3, [])  # the new manifest names its path


def test_a_store_that_was_moved_is_opened_by_all_roots(original: Path, tmp_path: Path) -> None:
    moved = [tmp_path / "one", tmp_path / "another"]
    for root, path in zip(_roots(original), moved, strict=True):
        root.rename(path)
    with fastio.Store.open(moved[0]) as store:
        assert store.roots == (moved[0],)
    with _events() as told, fastio.Store.open(moved) as store:
        assert told == []
        assert store.save(_tensors(3)) == 3
    with _events() as told, fastio.Store.open(moved[1]) as store:
        assert sorted(store.roots) == sorted(moved)
        assert (_seed_of(store.load()), told) == (3, [])


@pytest.mark.parametrize("order", [0, 1])
def test_a_copy_of_one_root_beside_the_other_original_gives_way_to_its_own_original(
    original: Path, copy: Path, order: int
) -> None:
    given = [copy / "root0", original / "root1"]
    with fastio.Store.open(given[:: 1 - 2 * order]) as store:
        assert sorted(store.roots) == _roots(original)
        assert "is a copy of the root" in store.status().roots[str(copy / "root0")]
        assert _seed_of(store.load()) == 2


def test_of_two_roots_with_one_uuid_one_is_a_copy(original: Path, copy: Path) -> None:
    for given in ([copy / "root0", *_roots(original)], [*_roots(original), copy / "root0"]):
        with fastio.Store.open(given) as store:
            assert sorted(store.roots) == _roots(original)
            assert "is a copy of the root" in store.status().roots[str(copy / "root0")]


@pytest.mark.parametrize("also_original", [True, False])
@pytest.mark.parametrize(
    "given",
    [
        ["copy/root0", "original/root1"],
        ["original/root0", "copy/root1"],
        ["copy/root0", "original/root0"],
        ["original/root1", "copy/root1"],
        ["copy/root0", "copy/root1", "original/root0", "original/root1"],
    ],
)
def test_a_store_and_its_copy_that_were_both_saved_to_are_not_mixed(
    original: Path, copy: Path, given: list[str], also_original: bool
) -> None:
    with fastio.Store.open(_roots(copy)) as store:
        store.save(_tensors(9))
    if also_original:
        with fastio.Store.open(_roots(original)) as store:
            store.save(_tensors(3))
    paths = [original.parent / path for path in given]
    for order in (paths, paths[::-1]):
        with pytest.raises(fastio.FormatError, match="both were saved to since"):
            fastio.Store.open(order)
    for root in _roots(copy):
        assert _seed_of(fastio.load(root)) == 9
    for root in _roots(original):
        assert _seed_of(fastio.load(root)) == (3 if also_original else 2)


def test_a_copy_that_is_saved_to_later_does_not_join_a_store_that_is_open(
    original: Path, copy: Path
) -> None:
    with fastio.Store.open([copy / "root0", *_roots(original)]) as store:
        with fastio.Store.open(_roots(copy)) as other:
            for seed in (7, 8, 9):
                other.save(_tensors(seed))
        assert store.save(_tensors(3)) == 3
        assert sorted(store.roots) == _roots(original)
        assert "saved to since" in store.status().roots[str(copy / "root0")]
    assert _seed_of(fastio.load(original / "root0")) == 3
    assert _seed_of(fastio.load(copy / "root0")) == 9


def test_a_root_restored_elsewhere_does_not_belong_to_a_copy(
    original: Path, tmp_path: Path
) -> None:
    """Its own manifest names its old path, and so does the newer one."""
    shutil.copytree(original / "root1", tmp_path / "backup")
    with fastio.Store.open(_roots(original)) as store:
        store.save(_tensors(3))
    shutil.rmtree(original / "root1")
    with fastio.Store.open([original / "root0", tmp_path / "backup"]) as store:
        assert _seed_of(store.load()) == 3
        assert store.verify(repair=True).ok
        store.save(_tensors(4))
    with fastio.Store.open(tmp_path / "backup") as store:
        assert sorted(store.roots) == sorted([original / "root0", tmp_path / "backup"])


def test_roots_of_two_stores_are_told_apart(original: Path, tmp_path: Path) -> None:
    create(tmp_path / "other").close()
    with pytest.raises(fastio.FormatError, match="roots of different stores"):
        fastio.Store.open([original / "root0", tmp_path / "other" / "root0"])
    with fastio.Store.open([*_roots(original), tmp_path / "other" / "root0"]) as store:
        assert "is of another store" in store.status().roots[str(tmp_path / "other" / "root0")]
        assert _seed_of(store.load()) == 2


# ---- a copy that is made a store of its own


def test_a_copy_that_is_adopted_is_a_store_of_its_own(original: Path, copy: Path) -> None:
    with fastio.Store.adopt(_roots(copy)) as store:
        assert store.generation == 2
        assert [each.number for each in store.generations()] == [2, 1]
        assert _seed_of(store.load()) == 1
        assert _seed_of(store.load(generation=1)) == 1
        assert store.save(_tensors(5)) == 3
    with fastio.Store.open(original / "root0") as store, _events() as told:
        with fastio.Store.open(copy / "root1") as adopted:
            assert told == []
            assert adopted._opened.members.store != store._opened.members.store
            assert not set(adopted._opened.members.roots) & set(store._opened.members.roots)
            assert not adopted.status().degraded
            assert _seed_of(adopted.load()) == 5
        assert _seed_of(store.load()) == 2
    with pytest.raises(fastio.FormatError, match="roots of different stores"):
        fastio.Store.open([original / "root0", copy / "root1"])


def test_a_copy_of_an_adopted_copy_is_adopted_as_well(copy: Path, tmp_path: Path) -> None:
    fastio.Store.adopt(_roots(copy)).close()
    shutil.copytree(copy, tmp_path / "third")
    with fastio.Store.adopt(_roots(tmp_path / "third")) as store:
        assert store.rollback_to(1) == 4
        assert _seed_of(store.load()) == 1
        store.gc(keep=1)
        shutil.rmtree(tmp_path / "third" / "root0")
        assert _seed_of(fastio.load(tmp_path / "third" / "root1")) == 1


def test_a_mapping_of_names_to_roots_is_adopted_too(tmp_path: Path) -> None:
    folder = tmp_path / "original"
    with create(folder, 3, replicas=1, placement={"t0": [2], "*": [0]}) as store:
        store.save(_tensors(1))
    shutil.copytree(folder, tmp_path / "copy")
    with fastio.Store.adopt(_roots(tmp_path / "copy", 3)) as store:
        assert store.save(_tensors(2)) == 3
    for at, count in ((0, True), (1, False), (2, True)):
        assert any((_roots(tmp_path / "copy", 3)[at] / "shards").iterdir()) == count


def test_a_store_that_is_no_copy_is_not_adopted(original: Path, copy: Path) -> None:
    with pytest.raises(fastio.UsageError, match="no copy"):
        fastio.Store.adopt(_roots(original))
    with pytest.raises(fastio.ReplicaError, match="all roots of a copy have to be given"):
        fastio.Store.adopt([copy / "root0"])
    with pytest.raises(fastio.UsageError, match="no copy"):
        fastio.Store.adopt([copy / "root0", original / "root1"])
    for path in (copy / "root0" / "shards").iterdir():
        path.unlink()
    for path in (copy / "root1" / "shards").iterdir():
        path.unlink()
    with pytest.raises(fastio.ReplicaError, match="is not whole on these roots"):
        fastio.Store.adopt(_roots(copy))
    assert _seed_of(fastio.load(original / "root0")) == 2
    with fastio.Store.adopt(_roots(original), force=True) as store:
        assert _seed_of(store.load()) == 2


def test_an_adoption_that_was_cut_off_is_gone_on_with(
    original: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Root.identify
    done: list[PurePath] = []

    def identify(self: Root, *arguments: Any) -> None:
        if done:
            raise KeyboardInterrupt
        done.append(self.path)
        real(self, *arguments)

    monkeypatch.setattr(Root, "identify", identify)
    with pytest.raises(KeyboardInterrupt):
        fastio.Store.adopt(_roots(copy))
    monkeypatch.undo()
    with fastio.Store.adopt(_roots(copy)) as store:
        assert _seed_of(store.load()) == 1
        assert not store.status().degraded
    assert _seed_of(fastio.load(original / "root0")) == 2


def _bytes_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_an_adoption_that_was_killed_at_any_step_goes_on_when_it_is_called_again(
    tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its generation is on a majority, the call is complete, and reports it."""
    original = tmp_path / "original"
    with create(original, count) as store:
        store.save(_tensors(1))
    before = _bytes_of(original)

    def copy(step: int) -> list[Path]:
        return _roots(tmp_path / f"copy{step}", count)

    def run(step: int) -> None:
        shutil.copytree(original, tmp_path / f"copy{step}")
        with dying:
            fastio.Store.adopt(copy(step)).close()

    def again(step: int) -> None:
        stores = {Root.open(root).identity.store for root in copy(step)}
        if len(stores) > 1:
            seen.append(step)
            _assert_adopting_again_is_told(copy(step))
        try:
            store = fastio.Store.adopt(copy(step))
        except fastio.UsageError as error:
            told.append(str(error))
            store = fastio.Store.open(copy(step))
        with store:
            assert _seed_of(store.load()) == 1
            assert store.save(_tensors(2)) >= 3
            assert not store.status().degraded
            assert store.verify().ok
            assert Root.open(original / "root0").identity.store != store._opened.members.store
        with fastio.Store.open(copy(step)[-1]) as store:
            assert len(store.roots) == count

    seen: list[int] = []
    told: list[str] = []
    dying = Dying(monkeypatch)
    dying.at_each_step(run, again)
    assert bool(seen) == (count > 1)
    assert all("has been adopted already" in each for each in told)
    assert _bytes_of(original) == before


def _assert_adopting_again_is_told(roots: list[Path]) -> None:
    """Some roots of a copy were adopted, and the rest was not."""
    try:
        with fastio.Store.open(roots) as store:
            why = str(store.status())
    except fastio.FormatError as error:
        why = str(error)
    assert "fastio.Store.adopt with all roots of the copy goes on with it" in why
    with fastio.Store.open(roots[0]) as store:
        assert "fastio.Store.adopt" in str(store.status())


def _adopted(roots: list[Path]) -> fastio.Store | fastio.FastioError:
    try:
        return fastio.Store.adopt(roots)
    except fastio.FastioError as error:
        return error


@pytest.mark.parametrize("first_waits_at", [1, 2])
@pytest.mark.parametrize("second_waits_at", [1, 2, None])
def test_one_of_two_concurrent_adoptions_succeeds_and_the_other_is_refused(
    copy: Path,
    first_waits_at: int,
    second_waits_at: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first one stops before he takes locks, once or once more. The second one begins then and
    ends, or stops there, too, until the first one has ended.
    """
    real = Session
    waits, go_on = threading.Event(), threading.Event()
    counts = {"first": 0, "second": 0}
    results: list[fastio.Store | fastio.FastioError] = []

    def second() -> None:
        results.append(_adopted(_roots(copy)))
        waits.set()

    thread = threading.Thread(target=second)

    def session(*arguments: Any, **more: Any) -> Any:
        who = "second" if threading.current_thread() is thread else "first"
        counts[who] += 1
        if who == "first" and counts[who] == first_waits_at:
            thread.start()
            assert waits.wait(60)
        elif who == "second" and counts[who] == second_waits_at:
            waits.set()
            assert go_on.wait(60)
        return real(*arguments, **more)

    monkeypatch.setattr(creation, "Session", session)
    results.append(_adopted(_roots(copy)))
    go_on.set()
    thread.join()
    (winner,) = [each for each in results if isinstance(each, fastio.Store)]
    (loser,) = [each for each in results if not isinstance(each, fastio.Store)]
    assert "somebody" in str(loser) or "adopted already" in str(loser)
    with winner:
        assert not winner.status().degraded
        assert winner.save(_tensors(3)) >= 3
    with fastio.Store.open(copy / "root1") as store:
        assert (store._opened.members.store, len(store.roots)) == (winner._opened.members.store, 2)


def test_a_store_that_was_adopted_while_it_was_open_is_not_written_to(copy: Path) -> None:
    with fastio.Store.open(_roots(copy)) as store, fastio.Store.adopt(_roots(copy)) as adopted:
        with pytest.raises(fastio.ReplicaError, match="is of another store"):
            store.save(_tensors(7))
        with pytest.raises(fastio.ReplicaError, match="is of another store"):
            store.gc()
        assert _seed_of(adopted.load()) == 1
        assert not adopted.status().degraded


# ---- links, and folders that are no roots


def test_a_root_that_leads_to_another_one_is_skipped(tmp_path: Path) -> None:
    """A mount that fell back to the other disk."""
    roots = _roots(tmp_path, 3)
    with create(tmp_path, 3) as store:
        store.save(_tensors(1))
    shutil.rmtree(roots[2])
    roots[2].symlink_to(roots[0])
    for given in (roots, roots[:1], roots[2:], [*roots, roots[0]]):
        with fastio.Store.open(given) as store:
            assert _seed_of(store.load()) == 1
            assert {Path(root).resolve() for root in store.roots} == set(roots[:2])
            assert store.status().degraded
            assert store.save(_tensors(1)) > 1
    with pytest.raises(ValueError, match="twice"):
        fastio.Store.create([tmp_path / "new", tmp_path / "new"])


@pytest.mark.parametrize("write", ["save", "rollback_to", "replace_root"])
@pytest.mark.parametrize("way", ["a link to the folder above", "a link to a root"])
def test_a_save_through_an_alias_records_the_real_paths(
    tmp_path: Path, way: str, write: str
) -> None:
    """The alias is temporary, and the store is still known by its old paths."""
    folder, alias = tmp_path / "original", tmp_path / "alias"
    with create(folder, 3) as store:
        store.save(_tensors(1))
    if way == "a link to a root":
        alias.mkdir()
        (alias / "root0").symlink_to(folder / "root0")
    else:
        alias.symlink_to(folder)
    with fastio.Store.open(alias / "root0") as store:
        if write == "save":
            store.save(_tensors(2))
        elif write == "rollback_to":
            store.rollback_to(1)
        else:
            store.replace_root(alias / "root0", folder / "root3")
    alias.rename(tmp_path / "gone")
    roots = [root for root in _roots(folder, 4) if root.exists()]
    if write == "replace_root":
        shutil.rmtree(roots.pop(0))
    for given in (roots[:1], roots[1:], roots):
        with _events() as told, fastio.Store.open(given) as store:
            assert len(store.roots) == 3
            assert sorted(store.roots) == roots
            assert (told, store.generation) == ([], 2)
            assert not store.status().degraded


def test_a_root_whose_old_path_leads_to_another_folder_has_the_new_one(tmp_path: Path) -> None:
    roots = _roots(tmp_path)
    with create(tmp_path) as store:
        store.save(_tensors(1))
    moved = [root.rename(tmp_path / f"moved{at}") for at, root in enumerate(roots)]
    for root in roots:
        root.mkdir()
    with fastio.Store.open(moved) as store:
        store.save(_tensors(2))
    with fastio.Store.open(moved[0]) as store:
        assert sorted(store.roots) == moved
        assert _seed_of(store.load()) == 2


def _a_file(path: Path) -> None:
    path.write_bytes(b"x")


def _a_dangling_link(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


@pytest.mark.parametrize("make", [_a_file, os.mkfifo, os.mkdir, _a_dangling_link])
def test_a_root_replaced_by_something_else_is_missing_and_reported(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    roots = _roots(tmp_path)
    with create(tmp_path) as store:
        store.save(_tensors(1))
    shutil.rmtree(roots[0])
    make(roots[0])
    for given in (roots, roots[1:]):
        with fastio.Store.open(given) as store:
            assert _seed_of(store.load()) == 1
            assert store.status().degraded
            assert store.status().roots[str(roots[0])] != "ok"
    with pytest.raises((fastio.FastioError, FileNotFoundError), match="root0"):
        fastio.Store.open(roots[0])
