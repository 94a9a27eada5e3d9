"""Readers of single tensors, of rows, into existing arrays, and within a memory limit.

Each is the few lines that a user would write. All of them get rows and shapes before the clock
starts.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from bench.contenders import prepared
from bench.contenders.contender import Answer, Attempt, Load, Loader, Prepare
from bench.measure import answers

MIB = 2**20
# The memory limit of fastio's stream.
STREAM_LIMIT_BYTES = 256 * MIB
PAGE_BYTES = 4096

Opens = Callable[[str], AbstractContextManager[Any]]


def _safe_open(module: str, **arguments: Any) -> Opens:
    """Return a function that opens a file for torch with the `safe_open` of a module."""
    return lambda path: importlib.import_module(module).safe_open(path, framework="pt", **arguments)


def _reader(verify: bool) -> Opens:
    return lambda path: importlib.import_module("fastio").open(
        path, framework="torch", verify=verify
    )


# ---- one by one ---------------------------------------------------------------------------------


def _get_each(opens: Opens) -> Load:
    """Read every tensor in the loop of a checkpoint loader, and note the loop's own time."""

    def load(attempt: Attempt) -> Mapping[str, Any]:
        tensors: dict[str, Any] = {}
        with opens(attempt.path) as file:
            names = file.keys()
            begin = time.perf_counter()
            for name in names:
                tensors[name] = file.get_tensor(name)
            attempt.figures["loop_s"] = time.perf_counter() - begin
        return tensors

    return load


# ---- parts --------------------------------------------------------------------------------------


def _rows(path: str) -> Mapping[str, slice]:
    """Return the rows of each tensor that are read."""
    return {
        entry.name: slice(*answers.middle_rows(entry.shape[0]))
        for entry in answers.file_entries(Path(path))
    }


def _get_slices(opens: Opens) -> Load:
    def load(attempt: Attempt) -> Mapping[str, Any]:
        with opens(attempt.path) as file:
            return {name: file.get_slice(name)[rows] for name, rows in attempt.given.items()}

    return load


def _index(verify: bool) -> Load:
    opens = _reader(verify)

    def load(attempt: Attempt) -> Mapping[str, Any]:
        with opens(attempt.path) as reader:
            parts = {name: reader[name][rows] for name, rows in attempt.given.items()}
            attempt.report = reader.report
        attempt.figures["bytes_read"] = attempt.report.bytes_read
        return parts

    return load


# ---- into existing memory -----------------------------------------------------------------------


# No file holds ones, so a load that fills nothing is a wrong answer.


def _filled_torch(alignment_bytes: int | None) -> Prepare:
    """Return tensors of each shape with their pages allocated, aligned or as torch places them."""

    def prepare(path: str) -> Mapping[str, Any]:
        tensors = prepared.empty_torch(answers.file_entries(Path(path)), alignment_bytes)
        for tensor in tensors.values():
            tensor.fill_(1)
        return tensors

    return prepare


def _filled_numpy(path: str) -> Mapping[str, Any]:
    arrays = prepared.empty_numpy(answers.file_entries(Path(path)))
    for array in arrays.values():
        array.fill(1)
    return arrays


def _load_into(verify: bool) -> Load:
    def load(attempt: Attempt) -> Mapping[str, Any]:
        fastio = importlib.import_module("fastio")
        attempt.report = fastio.Report()
        fastio.load_into(attempt.path, attempt.given, verify=verify, report=attempt.report)
        return attempt.given

    return load


def _load_and_copy(attempt: Attempt) -> Mapping[str, Any]:
    from safetensors.torch import load_file

    for name, tensor in load_file(attempt.path).items():
        attempt.given[name].copy_(tensor)
    return attempt.given


# ---- one after the other, each dropped ----------------------------------------------------------

Passes = Callable[[Attempt], Iterator[tuple[str, Any]]]


class _Dropped(Answer):
    """Tensors that were dropped. A second pass is digested, and must be as long as the first."""

    def __init__(self, passes: Passes, path: str, count: int, nbytes: int) -> None:
        super().__init__()
        self._passes, self._path = passes, path
        self._count, self._nbytes = count, nbytes

    def digest(self) -> str:
        """Return the digest of a second pass.

        Raises
        ------
        AnswerError
            The second pass is not as long as the first.
        """
        digest = answers.RunningDigest()
        for name, tensor in self._passes(Attempt(self._path)):
            digest.add(name, tensor)
        if (digest.count, digest.nbytes) != (self._count, self._nbytes):
            raise answers.AnswerError(
                f"{self._count} tensors of {self._nbytes} bytes went by in time, "
                f"then {digest.count} of {digest.nbytes}"
            )
        return digest.result()


def _drop_each(passes: Passes, limit_bytes: int | None = None) -> Load:
    """Read each tensor and drop it before the next one."""

    def load(attempt: Attempt) -> Mapping[str, Any]:
        count = nbytes = largest = 0
        for _, tensor in passes(attempt):
            count, nbytes, largest = count + 1, nbytes + tensor.nbytes, max(largest, tensor.nbytes)
            del tensor
        if limit_bytes is not None:
            # A tensor larger than the limit is held too.
            attempt.figures["allowed_bytes"] = max(limit_bytes, largest)
        return _Dropped(passes, attempt.path, count, nbytes)

    return load


def _stream(verify: bool) -> Passes:
    opens = _reader(verify)

    def passes(attempt: Attempt) -> Iterator[tuple[str, Any]]:
        with opens(attempt.path) as reader:
            yield from reader.stream(memory_limit_bytes=STREAM_LIMIT_BYTES)
            attempt.report = reader.report

    return passes


def _touch_each(attempt: Attempt) -> Iterator[tuple[str, Any]]:
    """Read each tensor with safetensors. It is touched before it is dropped, since it is mapped."""
    with _safe_open("safetensors")(attempt.path) as file:
        for name in file.keys():  # noqa: SIM118
            tensor = file.get_tensor(name)
            answers.touch({name: tensor})
            yield name, tensor
            del tensor


_TORCH = ("fastio", "torch")
_RIVAL = ("safetensors", "safetensors.torch", "torch")


def _both(name: str, title: str, make: Callable[[bool], Load], **more: Any) -> tuple[Loader, ...]:
    """Return fastio with its checksums, and without."""
    return (
        Loader(name, title, _TORCH, make(True), **more),
        Loader(f"{name}-unverified", f"{title}, verify=False", _TORCH, make(False), **more),
    )


READERS = (
    *_both(
        "fastio-get",
        "fastio.safe_open, get_tensor",
        lambda verify: _get_each(_safe_open("fastio", verify=verify)),
    ),
    Loader(
        "safetensors-get",
        "safetensors, get_tensor, touched",
        _RIVAL,
        _get_each(_safe_open("safetensors")),
        place="mapped",
    ),
    *_both("fastio-slices", "fastio, rows by index", _index, gives="rows", prepare=_rows),
    Loader(
        "fastio-get-slice",
        "fastio.safe_open, get_slice",
        _TORCH,
        _get_slices(_safe_open("fastio")),
        gives="rows",
        prepare=_rows,
    ),
    Loader(
        "safetensors-slices",
        "safetensors, get_slice, touched",
        _RIVAL,
        _get_slices(_safe_open("safetensors")),
        gives="rows",
        place="mapped",
        prepare=_rows,
    ),
    *_both(
        "fastio-into",
        "fastio.load_into",
        _load_into,
        place="given",
        prepare=_filled_torch(None),
    ),
    *_both(
        "fastio-into-aligned",
        "fastio.load_into, aligned",
        _load_into,
        place="given",
        prepare=_filled_torch(PAGE_BYTES),
    ),
    Loader(
        "fastio-into-numpy",
        "fastio.load_into, numpy",
        ("fastio", "numpy", "ml_dtypes"),
        _load_into(True),
        place="given",
        prepare=_filled_numpy,
    ),
    Loader(
        "safetensors-copy",
        "safetensors, load_file and copy_",
        _RIVAL,
        _load_and_copy,
        place="given",
        prepare=_filled_torch(None),
    ),
    *_both(
        "fastio-stream",
        f"fastio, stream of {STREAM_LIMIT_BYTES // MIB} MiB",
        lambda verify: _drop_each(_stream(verify), STREAM_LIMIT_BYTES),
        place="nowhere",
    ),
    Loader(
        "safetensors-stream",
        "safetensors, get_tensor, touched, dropped",
        _RIVAL,
        _drop_each(_touch_each),
        place="nowhere",
    ),
)
