"""Errors report their finding and its place, and travel between processes."""

import copy
import errno
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest

import fastio

_FORMAT = fastio.FormatError("/data/m", "is empty", offset=8, expected="a header")
_CHECKSUM = fastio.ChecksumError(
    "/data/m", chunk=3, offset=4096, nbytes=512, expected="a" * 16, found="b" * 16, tensors=("w",)
)
_READ = fastio.ReadError(errno.EIO, "read", "/data/m", 8192, "the disk is tired")
_WRITE = fastio.WriteError(errno.ENOSPC, "fallocate", "/data/m")
_NOT_FOUND = fastio.TensorNotFoundError("wieght", "/data/m", ("weight",))
_LIMIT = fastio.MemoryLimitError(300, 200, 100)
_USAGE = fastio.UsageError("the reader of /data/m is closed")
_SELECTION = fastio.SelectionError("index 5 is out of bounds for axis 0 with size 2")
_DTYPE = fastio.DtypeError("/data/m: tensor 'w' has dtype F6_E2M3, which numpy cannot hold")
_ALL = (
    *(_FORMAT, _CHECKSUM, _READ, _WRITE, _NOT_FOUND, _LIMIT),
    *(_USAGE, _SELECTION, _DTYPE),
)


@pytest.mark.parametrize("error", _ALL, ids=lambda error: type(error).__name__)
def test_an_error_survives_pickling_and_copying(error: fastio.FastioError) -> None:
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(twin) is type(error)
        assert str(twin) == str(error)
        assert vars(twin) == vars(error)


def test_attributes_added_to_an_error_survive_pickling() -> None:
    error = fastio.FormatError("/data/m", "is empty")
    error.seen_by = "rank 3"  # type: ignore[attr-defined]
    assert pickle.loads(pickle.dumps(error)).seen_by == "rank 3"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="errors have no notes before Python 3.11")
@pytest.mark.parametrize("error", _ALL, ids=lambda error: type(error).__name__)
def test_notes_survive_pickling(error: Any) -> None:
    noted = copy.copy(error)
    noted.add_note("while rank 3 loaded")
    assert pickle.loads(pickle.dumps(noted)).__notes__ == ["while rank 3 loaded"]


def test_the_base_alone_is_an_error_too() -> None:
    error = fastio.FastioError("no luck", 3)
    assert str(error) == "no luck 3"
    assert str(pickle.loads(pickle.dumps(error))) == "no luck 3"


@pytest.mark.parametrize(
    "path", ["/data/m", b"/data/m", Path("/data/m")], ids=["str", "bytes", "Path"]
)
def test_a_path_is_kept_as_a_str_whatever_it_came_as(path: Any) -> None:
    checksum = fastio.ChecksumError(path, chunk=0, offset=0, nbytes=1, expected="", found="")
    read = fastio.ReadError(errno.EIO, "read", path)
    found = (fastio.FormatError(path, "is empty").path, checksum.path, read.path, read.filename)
    assert found == ("/data/m",) * 4


def test_a_path_that_is_not_utf_8_does_not_hide_the_error() -> None:
    error = fastio.FormatError(b"/data/\xff", "is empty")
    assert error.path == "/data/\udcff"
    assert "is empty" in str(pickle.loads(pickle.dumps(error)))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (_FORMAT, ValueError),
        (_READ, OSError),
        (_WRITE, OSError),
        (_NOT_FOUND, KeyError),
        (_LIMIT, MemoryError),
        (_USAGE, ValueError),
        (_SELECTION, IndexError),
        (_DTYPE, TypeError),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_an_error_is_caught_as_the_builtin_that_it_is(
    error: fastio.FastioError, kind: type[BaseException]
) -> None:
    assert isinstance(error, kind)
    assert isinstance(error, fastio.FastioError)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (_FORMAT, ("/data/m", "is empty", "byte 8", "expected a header")),
        (_CHECKSUM, ("/data/m", "chunk 3", "byte 4096", "512 bytes", "a" * 16, "b" * 16, "'w'")),
        (_READ, ("/data/m", "read", "byte 8192", "EIO", "Input/output error", "tired")),
        (_WRITE, ("/data/m", "fallocate", "ENOSPC", "No space left")),
        (_NOT_FOUND, ("/data/m", "'wieght'", "did you mean 'weight'?")),
        (_LIMIT, ("300", "200", "100")),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_a_message_says_all(error: fastio.FastioError, words: tuple[str, ...]) -> None:
    assert [word for word in words if word not in str(error)] == []


def test_a_failed_system_call_looks_like_any_other_oserror() -> None:
    assert (_READ.errno, _READ.strerror, _READ.filename) == (5, "Input/output error", "/data/m")
    assert (_READ.operation, _READ.offset) == ("read", 8192)


@pytest.mark.parametrize("twin", [pickle.loads(pickle.dumps(_READ)), copy.copy(_READ)])
def test_the_fields_of_every_oserror_survive_pickling(twin: fastio.ReadError) -> None:
    assert (twin.errno, twin.strerror, twin.filename) == (5, "Input/output error", "/data/m")


_SYSTEM_ERRORS = (fastio.ReadError, fastio.WriteError)


@pytest.mark.parametrize("number", sorted(errno.errorcode), ids=errno.errorcode.get)
@pytest.mark.parametrize("kind", _SYSTEM_ERRORS)
def test_a_failed_system_call_is_also_pythons_exception_for_its_number(
    kind: Any, number: int
) -> None:
    error = kind(number, "open", "/data/m", 8, "the disk is tired")
    builtin = type(OSError(number, "")) if number != errno.ETIMEDOUT else OSError
    assert isinstance(error, kind)
    assert isinstance(error, builtin)
    assert type(error).__name__ == kind.__name__
    assert (error.errno, error.strerror) == (number, os.strerror(number))
    assert (error.filename, error.args) == ("/data/m", (number, os.strerror(number)))
    twin = pickle.loads(pickle.dumps(error))
    assert type(twin) is type(error)
    assert (str(twin), vars(twin), twin.args) == (str(error), vars(error), error.args)


@pytest.mark.parametrize("kind", _SYSTEM_ERRORS)
def test_a_failed_system_call_is_never_a_wait_that_timed_out(kind: Any) -> None:
    # `except TimeoutError` around SaveHandle.result(timeout) means: the save still runs.
    assert not isinstance(kind(errno.ETIMEDOUT, "write", "/data/m"), TimeoutError)


def test_a_class_of_its_own_below_one_of_a_failed_system_call_is_kept() -> None:
    class Refused(fastio.ReadError):
        pass

    refused = Refused(errno.EPERM, "open", "/data/m")
    assert isinstance(refused, Refused)
    assert isinstance(refused, PermissionError)
    assert type(Refused(errno.EIO, "read", "/data/m")) is Refused


def test_a_failed_system_call_takes_its_arguments_by_name() -> None:
    error = fastio.ReadError(errno=errno.EACCES, operation="open", path=b"/data/m", detail="why")
    assert isinstance(error, PermissionError)
    assert str(error) == "/data/m: open failed: EACCES (Permission denied): why"


def test_unknown_fields_are_not_mentioned() -> None:
    assert str(fastio.FormatError("/data/m", "is empty")) == "/data/m: is empty"
    assert "held" not in str(fastio.MemoryLimitError(300, 200))
    assert "byte" not in str(_WRITE)
    untold = fastio.ChecksumError("m", chunk=0, offset=0, nbytes=1, expected="", found="")
    assert "bytes of" not in str(untold)


def test_a_key_error_is_a_sentence_and_not_a_quoted_one() -> None:
    assert not str(_NOT_FOUND).startswith(("'", '"'))
    assert "did you mean" not in str(fastio.TensorNotFoundError("w", "/data/m"))
    assert _NOT_FOUND.args == ("wieght",)  # as in every KeyError


@pytest.mark.parametrize(
    ("count", "end"),
    [(1, "'0'"), (3, "'0', '1', '2'"), (4, "'0', '1', '2' and 1 more")],
)
def test_an_error_about_many_tensors_names_the_first(count: int, end: str) -> None:
    names = [str(number) for number in range(count)]
    error = fastio.ChecksumError(
        "m", chunk=0, offset=0, nbytes=1, expected="", found="", tensors=names
    )
    assert str(error).endswith(f"it has bytes of {end}")
    assert error.tensors == tuple(names)


def test_a_message_does_not_grow_with_hostile_names() -> None:
    name = "w" * 10_000_000
    many = fastio.ChecksumError(
        "m", chunk=0, offset=0, nbytes=1, expected="", found="", tensors=[name] * 1000
    )
    assert len(str(many)) < 2000
    assert "997 more" in str(many)
    assert len(str(fastio.TensorNotFoundError(name, "m", (name,)))) < 1000
