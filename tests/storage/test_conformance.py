"""The promises of a storage, held by each kind."""

import errno
import threading
from collections.abc import Callable

import pytest

from fastio.errors import ConflictError, FastioError, FormatError, ReadError, WriteError
from fastio.storage.kind import Kind
from fastio.storage.protocol import FILE_MODE, Lock, Storage
from samples import eventually, in_threads
from storage.conftest import SKELETON, Open

_OUTSIDE = ["../name", "..", ".", "", "/etc/passwd", "a/b", "others/x", "a\0b"]
_DATA = bytes(range(256)) * 20


def _put(storage: Storage, name: str, data: bytes = b"data", folder: str = "things") -> None:
    storage.put_if_absent(folder, name, data, FILE_MODE)


# ---- what is there


def test_what_was_put_is_read_by_whoever_opens_the_storage(storage: Storage, another: Open) -> None:
    _put(storage, "a", _DATA)
    _put(storage, "b", b"")
    for one in (storage, another()):
        assert one.read("things", "a", len(_DATA)) == _DATA
        assert one.names("things") == ["a", "b"]
        assert one.sizes("things") == {"a": len(_DATA), "b": 0}
        assert one.size("things", "a") == len(_DATA)
        assert one.names("others") == []


def test_a_file_of_the_storage_itself_is_in_no_folder(storage: Storage) -> None:
    _put(storage, "name", b"who", folder="")
    assert storage.read("", "name", 10) == b"who"
    assert storage.sizes("")["name"] == 3
    assert storage.sizes("things") == {}


@pytest.mark.parametrize(
    ("begin", "nbytes"), [(0, 10), (100, 1), (5, 0), (0, 10**6), (5000, 1000), (5120, 1), (9999, 5)]
)
def test_a_range_has_the_bytes_that_there_are(storage: Storage, begin: int, nbytes: int) -> None:
    _put(storage, "a", _DATA)
    assert storage.read_range("things", "a", begin, nbytes) == _DATA[begin : begin + nbytes]


def test_a_file_that_is_longer_than_expected_is_refused(storage: Storage) -> None:
    _put(storage, "a", bytes(11))
    assert storage.read("things", "a", 11) == bytes(11)
    with pytest.raises(FormatError, match="bytes"):
        storage.read("things", "a", 10)


_READS: dict[str, Callable[[Storage, str], object]] = {
    "read": lambda storage, name: storage.read("things", name, 10),
    "read_range": lambda storage, name: storage.read_range("things", name, 0, 10),
    "size": lambda storage, name: storage.size("things", name),
    "mode": lambda storage, name: storage.mode("things", name),
    "open_file": lambda storage, name: storage.open_file("things", name),
    "hold": lambda storage, name: storage.locks.hold("things", name),
    "exclude": lambda storage, name: storage.locks.exclude("things", name),
}
_WRITES: dict[str, Callable[[Storage, str], object]] = {
    "put_if_absent": _put,
    "replace": lambda storage, name: storage.replace("things", name, b"data", FILE_MODE),
    "new_file": lambda storage, name: storage.new_file("things", name),
    "remove": lambda storage, name: storage.remove("things", name),
    "mend_file": lambda storage, name: storage.upkeep.mend_file("things", name, b"1", FILE_MODE),
    "take": lambda storage, name: storage.locks.take(name, FILE_MODE),
}


@pytest.mark.parametrize("call", _READS)
def test_a_missing_file_is_not_found(storage: Storage, call: str) -> None:
    _put(storage, "another")
    with pytest.raises(FileNotFoundError) as raised:
        _READS[call](storage, "a")
    assert str(storage.path / "things" / "a") in str(raised.value)


@pytest.mark.parametrize("name", _OUTSIDE)
@pytest.mark.parametrize("call", [*_READS, *_WRITES])
def test_no_name_leads_out_of_its_folder(storage: Storage, call: str, name: str) -> None:
    _put(storage, "name", b"who", folder="")
    _put(storage, "x", b"other", folder="others")
    with pytest.raises(ReadError) as raised:
        {**_READS, **_WRITES}[call](storage, name)
    assert raised.value.errno == errno.EINVAL
    assert storage.read("", "name", 10) == b"who"
    assert storage.sizes("others") == {"x": 5}


@pytest.mark.parametrize("folder", ["..", ".", "/", "things/../others", "a\0b"])
def test_no_folder_leads_out_of_the_storage(storage: Storage, folder: str) -> None:
    with pytest.raises(ReadError):
        storage.read(folder, "name", 10)
    with pytest.raises(FastioError):
        _put(storage, "name", folder=folder)
    assert storage.sizes("others") == {}


def test_a_file_is_opened_for_loads(storage: Storage) -> None:
    _put(storage, "a", _DATA)
    file = storage.open_file("things", "a")
    assert file.nbytes == len(_DATA)
    assert file.read(256, 256) == _DATA[:256]
    assert file.path == str(storage.path / "things" / "a")
    assert file.disk == storage.disk()


@pytest.mark.parametrize("change", ["replace", "remove"])
def test_an_open_file_has_no_bytes_of_what_came_after_it(storage: Storage, change: str) -> None:
    _put(storage, "a", _DATA)
    file = storage.open_file("things", "a")
    if change == "replace":
        storage.replace("things", "a", bytes(len(_DATA)), FILE_MODE)
    else:
        storage.remove("things", "a")
    try:
        found = file.read(1, 255)
    except ReadError:
        return
    assert found == _DATA[1:256]


# ---- what is put there


def test_a_file_is_put_once(storage: Storage, another: Open) -> None:
    _put(storage, "a", b"first")
    for one in (storage, another()):
        with pytest.raises(ConflictError):
            _put(one, "a", b"second")
    assert storage.read("things", "a", 10) == b"first"
    assert storage.names("things") == ["a"]


def test_of_many_who_put_a_file_one_wins(storage: Storage, another: Open) -> None:
    opened = [another() for _ in range(8)]

    def put(at: int) -> int | None:
        try:
            _put(opened[at], "a", bytes([at]) * 1000)
        except ConflictError:
            return None
        return at

    for _ in range(5):
        (winner,) = (at for at in in_threads(len(opened), put) if at is not None)
        assert storage.read("things", "a", 1000) == bytes([winner]) * 1000
        storage.remove("things", "a")


def test_a_replaced_file_is_the_old_or_the_new_one_at_any_moment(
    storage: Storage, another: Open
) -> None:
    sizes = (10, 100_000)
    storage.replace("things", "a", bytes(sizes[0]), FILE_MODE)
    reader, done = another(), threading.Event()

    def read() -> set[int]:
        seen = set()
        while not done.is_set():
            seen.add(len(reader.read("things", "a", 10**6)))
        return seen

    def write() -> set[int]:
        try:
            for at in range(20):
                storage.replace("things", "a", bytes(sizes[at % 2]), FILE_MODE)
        finally:
            done.set()
        return set(sizes)

    seen, _ = in_threads(2, lambda at: (read, write)[at]())
    assert seen <= set(sizes)


def test_a_removed_file_is_gone_and_may_be_removed_again(storage: Storage) -> None:
    _put(storage, "a")
    storage.remove("things", "a")
    storage.remove("things", "a")
    assert storage.names("things") == []
    storage.sync("things")
    _put(storage, "a", b"new")
    assert storage.read("things", "a", 10) == b"new"


def test_a_file_that_is_written_piece_by_piece_is_seen_when_it_is_whole(storage: Storage) -> None:
    file = storage.new_file("things", "provisional")
    try:
        file.reserve(5000)
        file.begin()
        file.file.write(0, _DATA[:3000])
        file.file.write(3000, _DATA[3000:5000])
        assert "a" not in storage.sizes("things")
        file.name_as("a")
        file.allow(FILE_MODE)
        file.commit()
    finally:
        file.close()
    assert storage.sizes("things") == {"a": 5000}
    assert storage.read("things", "a", 5000) == _DATA[:5000]
    assert storage.mode("things", "a") == FILE_MODE


def test_nothing_is_left_of_a_file_that_is_given_up(storage: Storage) -> None:
    file = storage.new_file("things", "a")
    file.file.write(0, b"half")
    file.close()
    assert storage.names("things") == []


# ---- locks


def test_a_lock_has_one_holder(storage: Storage, another: Open) -> None:
    other = another()
    lock = storage.locks.take("lock", FILE_MODE)
    assert lock is not None
    assert other.locks.take("lock", FILE_MODE) is None
    assert storage.locks.take("lock", FILE_MODE) is None
    lock.sign("me\n")
    assert other.read("", "lock", 100) == b"me\n"
    lock.close()
    lock.close()
    taken = other.locks.take("lock", FILE_MODE)
    assert taken is not None
    assert storage.locks.take("lock", FILE_MODE) is None
    taken.close()


def test_of_many_who_take_a_lock_one_has_it(storage: Storage, another: Open) -> None:
    opened = [another() for _ in range(6)]

    def take(at: int) -> Lock | None:
        return opened[at].locks.take("lock", FILE_MODE)

    for _ in range(5):
        (held,) = (lock for lock in in_threads(len(opened), take) if lock is not None)
        held.close()


def test_whoever_holds_a_file_keeps_it_from_being_excluded(storage: Storage, another: Open) -> None:
    _put(storage, "a")
    other, third = another(), another()
    holders = [storage.locks.hold("things", "a"), other.locks.hold("things", "a")]
    for holder in holders:
        assert third.locks.exclude("things", "a") is None
        holder.close()
    excluding = third.locks.exclude("things", "a")
    assert excluding is not None
    assert storage.locks.exclude("things", "a") is None
    with pytest.raises(FileNotFoundError):
        other.locks.hold("things", "a")
    excluding.close()
    other.locks.hold("things", "a").close()


def test_a_lock_that_nobody_has_any_more_is_released(storage: Storage, another: Open) -> None:
    _put(storage, "a")
    held = [storage.locks.take("lock", FILE_MODE), storage.locks.hold("things", "a")]
    held.clear()
    other = another().locks
    assert other.take("lock", FILE_MODE) is not None
    assert other.exclude("things", "a") is not None


def test_a_hold_of_one_file_is_none_of_another(storage: Storage, another: Open) -> None:
    _put(storage, "a")
    _put(storage, "ab")
    held = storage.locks.hold("things", "ab")
    excluding = another().locks.exclude("things", "a")
    assert excluding is not None
    excluding.close()
    held.close()


def test_a_held_file_that_is_mended_is_still_held(storage: Storage, another: Open) -> None:
    _put(storage, "a", b"damaged")
    held = storage.locks.hold("things", "a")
    storage.upkeep.mend_file("things", "a", b"sound", FILE_MODE)
    assert storage.read("things", "a", 10) == b"sound"
    assert another().locks.exclude("things", "a") is None
    held.close()


# ---- itself, and its upkeep


def test_a_storage_knows_its_address(storage: Storage, another: Open, address: str) -> None:
    assert str(storage.path) == address
    assert storage.is_at(address)
    assert storage.is_at(another().path)
    assert not storage.is_at(f"{address}-another")
    assert storage.disk() == another().disk() == storage.answering.disk
    space = storage.space()
    assert space is None or 0 < space[0] <= space[1]


def test_nothing_is_wrong_with_a_new_storage(storage: Storage) -> None:
    upkeep = storage.upkeep
    assert [upkeep.folder_problem(folder) for folder in SKELETON.folders] == ["", ""]
    assert upkeep.lock_problem("lock") == ""
    assert upkeep.write_problems(SKELETON.folders) == []
    upkeep.mend_folder("things", FILE_MODE)
    upkeep.mend_lock("lock")
    upkeep.make_way("things", "a")
    upkeep.remove_leftovers(("", *SKELETON.folders))
    _put(storage, "a")
    upkeep.drop_cached("things", "a")
    assert storage.read("things", "a", 10) == b"data"


def test_files_that_cannot_be_read_are_named_with_the_reason(storage: Storage) -> None:
    _put(storage, "a", b"12345")
    _put(storage, "b", b"1")
    wanted = {"a": 5, "b": 2, "c": 3}
    assert storage.upkeep.unreadable("things", wanted) == {
        "b": "of another size",
        "c": "missing",
    }


def test_a_root_is_made_only_where_nothing_is(storage: Storage, kind: Kind) -> None:
    kind.require_free(storage.path, SKELETON)
    _put(storage, "name", folder="")
    kind.require_free(storage.path, SKELETON)
    _put(storage, "a")
    kind.require_own(storage.path, SKELETON)
    with pytest.raises(WriteError, match="ENOTEMPTY"):
        kind.require_free(storage.path, SKELETON)
    storage.remove("things", "a")
    _put(storage, "stranger", folder="")
    for check in (kind.require_free, kind.require_own):
        with pytest.raises(WriteError, match="ENOTEMPTY"):
            check(storage.path, SKELETON)


def test_what_was_made_is_unmade_once(storage: Storage, another: Open) -> None:
    def is_new() -> list[bool]:
        return [storage.is_new, another().is_new]

    found = is_new()
    storage.unmake()
    storage.unmake()
    assert (found, storage.is_new) == ([True, False], False)


_OTHERS: dict[str, Callable[[Storage, str], object]] = {
    "names": lambda storage, _: storage.names("things"),
    "sizes": lambda storage, _: storage.sizes("things"),
    "unreadable": lambda storage, name: storage.upkeep.unreadable("things", {name: 1}),
    "sync": lambda storage, _: storage.sync("things"),
    "is_at": lambda storage, _: storage.is_at(storage.path),
    "disk": lambda storage, _: storage.disk(),
    "space": lambda storage, _: storage.space(),
    "unmake": lambda storage, _: storage.unmake(),
}


@pytest.mark.parametrize("call", [*_READS, *_WRITES, *_OTHERS])
def test_every_call_is_left_when_the_storage_does_not_answer(storage: Storage, call: str) -> None:
    _put(storage, "a")
    go_on = threading.Event()
    storage.answering.timeout_s = 0.05
    with pytest.raises(ReadError, match="no answer in time"):
        storage.answering.ask(go_on.wait)
    try:
        with pytest.raises(ReadError, match="no answer in time") as raised:
            {**_READS, **_WRITES, **_OTHERS}[call](storage, "b")
        assert raised.value.errno == errno.ETIMEDOUT
    finally:
        go_on.set()
        assert eventually(lambda: not storage.answering.is_stuck, within_s=60)  # one a path
