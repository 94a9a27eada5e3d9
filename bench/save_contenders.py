"""Who saves, and by which lines of code: what each project's own documentation says.

Each is given the same tensors in memory and a path where nothing is. Rivals run as installed, with
their defaults; none of them offers to be durable, so each comes also with the fsync of its file
that a careful caller adds, inside the clock.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench import answers, cache, held
from bench.contender import Answer, Attempt, Save, Saver

COPY_THREADS = 2
COPY_PIECE_BYTES = 16 * 2**20
ALIGNMENT_BYTES = 64

# ---- what was written, read back ----------------------------------------------------------------


class _File(Answer):
    """A safetensors file, read back from the disk with `json` and `pread` alone.

    What still goes on when the clock stops is awaited first.
    """

    def __init__(self, path: str, await_rest: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self._path = Path(path)
        self._await_rest = await_rest

    def digest(self) -> str:
        """Return the digest of what is on the disk.

        Raises
        ------
        Exception
            What the rest of the save, or reading the file, raises.
        """
        self._await_rest()
        cache.evict(self._path)
        return answers.file_digest(self._path)


class _TorchFile(Answer):
    """A file of torch.save, read back from the disk with torch.load."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = Path(path)

    def digest(self) -> str:
        """Return the digest of what is on the disk.

        Raises
        ------
        Exception
            What reading the file raises.
        """
        import torch

        cache.evict(self._path)
        return answers.digest(torch.load(self._path, mmap=True, weights_only=True))


# ---- savers -------------------------------------------------------------------------------------


def _fastio(*, options: Mapping[str, Any] | None = None, **arguments: Any) -> Save:
    def save(attempt: Attempt) -> Mapping[str, Any]:
        import fastio

        attempt.report = fastio.Report()
        fastio.save(
            attempt.given,
            attempt.path,
            options=fastio.Options(**options) if options else None,
            report=attempt.report,
            **arguments,
        )
        return _File(attempt.path)

    return save


def _fastio_behind(snapshot: Any) -> Save:
    def save(attempt: Attempt) -> Mapping[str, Any]:
        import fastio

        handle = fastio.start_save(attempt.given, attempt.path, snapshot=snapshot)
        return _File(attempt.path, handle.result)

    return save


def _safetensors(framework: str, *, fsync: bool) -> Save:
    def save(attempt: Attempt) -> Mapping[str, Any]:
        module = importlib.import_module(f"safetensors.{framework}")
        module.save_file(attempt.given, attempt.path)
        if fsync:
            _fsync(attempt.path)
        return _File(attempt.path)

    return save


def _torch(*, fsync: bool) -> Save:
    def save(attempt: Attempt) -> Mapping[str, Any]:
        import torch

        torch.save(attempt.given, attempt.path)
        if fsync:
            _fsync(attempt.path)
        return _TorchFile(attempt.path)

    return save


def _fsync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---- copies, which a snapshot is held against ---------------------------------------------------


def _copy_each(attempt: Attempt) -> Mapping[str, Any]:
    return {name: array.copy() for name, array in attempt.given.items()}


def _copy_by_threads(attempt: Attempt) -> Mapping[str, Any]:
    """Copy into one piece of fresh memory, by as many threads as memory bandwidth may need."""
    places, end = {}, 0
    for name, array in attempt.given.items():
        places[name] = end
        end += -(-array.nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    room = np.empty(end, np.uint8)
    copies = {
        name: room[begin : begin + attempt.given[name].nbytes] for name, begin in places.items()
    }
    with ThreadPoolExecutor(COPY_THREADS) as pool:
        pieces = (
            piece for name, copy in copies.items() for piece in _pieces(copy, attempt.given[name])
        )
        for done in [pool.submit(np.copyto, to, source) for to, source in pieces]:
            done.result()
    return {
        name: copy.view(attempt.given[name].dtype).reshape(attempt.given[name].shape)
        for name, copy in copies.items()
    }


def _pieces(
    to: npt.NDArray[np.uint8], source: npt.NDArray[Any]
) -> Iterator[tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]]:
    flat = source.reshape(-1).view(np.uint8)
    for begin in range(0, len(flat), COPY_PIECE_BYTES):
        piece = slice(begin, begin + COPY_PIECE_BYTES)
        yield to[piece], flat[piece]


# ---- the table ----------------------------------------------------------------------------------


def _ours(name: str, title: str, save: Save, **more: Any) -> Saver:
    return Saver(name, title, ("fastio", "torch"), save, held.torch_tensors, **more)


def _with_and_without_fsync(
    name: str,
    title: str,
    modules: tuple[str, ...],
    make: Callable[[bool], Save],
    prepare: Callable[[str], Mapping[str, Any]],
) -> tuple[Saver, ...]:
    return (
        Saver(name, title, modules, make(False), prepare),
        Saver(f"{name}-fsync", f"{title}, fsync", modules, make(True), prepare),
    )


SAVERS = (
    _ours("fastio-save", "fastio.save", _fastio()),
    _ours("fastio-save-unsummed", "fastio.save, checksums=False", _fastio(checksums=False)),
    _ours("fastio-save-pread", "fastio.save, engine=pread", _fastio(options={"engine": "pread"})),
    _ours("fastio-save-not-durable", "fastio.save, durable=False", _fastio(durable=False)),
    Saver(
        "fastio-save-numpy",
        "fastio.save, numpy",
        ("fastio", "numpy", "ml_dtypes"),
        _fastio(),
        held.numpy_tensors,
    ),
    *_with_and_without_fsync(
        "safetensors-save",
        "safetensors.torch.save_file",
        ("safetensors", "safetensors.torch", "torch"),
        lambda fsync: _safetensors("torch", fsync=fsync),
        held.torch_tensors,
    ),
    *_with_and_without_fsync(
        "safetensors-save-numpy",
        "safetensors.numpy.save_file",
        ("safetensors", "safetensors.numpy", "numpy", "ml_dtypes"),
        lambda fsync: _safetensors("numpy", fsync=fsync),
        held.numpy_tensors,
    ),
    *_with_and_without_fsync(
        "torch-save",
        "torch.save",
        ("torch",),
        lambda fsync: _torch(fsync=fsync),
        held.torch_tensors,
    ),
    _ours(
        "fastio-save-borrow",
        "fastio.start_save, snapshot=borrow",
        _fastio_behind("borrow"),
        returns_early=True,
    ),
    _ours(
        "fastio-save-copy",
        "fastio.start_save, snapshot=copy",
        _fastio_behind("copy"),
    ),
    Saver(
        "copy-each", "numpy, a copy of each", ("numpy", "ml_dtypes"), _copy_each, held.numpy_tensors
    ),
    Saver(
        "copy-threads",
        f"numpy, one copy by {COPY_THREADS} threads",
        ("numpy", "ml_dtypes"),
        _copy_by_threads,
        held.numpy_tensors,
    ),
)
