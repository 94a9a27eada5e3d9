"""The ways to read all tensors of a store."""

from collections.abc import Callable
from typing import Any

import numpy as np

import fastio
from store.samples import tensors


def _load(store: fastio.Store, options: fastio.Options) -> dict[str, Any]:
    return store.load(options=options)


def _load_names(store: fastio.Store, options: fastio.Options) -> dict[str, Any]:
    return store.load(names=list(tensors(1)), options=options)


def _stream(store: fastio.Store, options: fastio.Options) -> dict[str, Any]:
    return dict(store.stream(options=options))


def _narrow_stream(store: fastio.Store, options: fastio.Options) -> dict[str, Any]:
    return dict(store.stream(options=options, memory_limit_bytes=2**20))


def _one_by_one(store: fastio.Store, options: fastio.Options) -> dict[str, Any]:
    with store.reader(options=options) as reader:
        return {name: reader.tensor(name) for name in reader}


def _backwards(store: fastio.Store, options: fastio.Options) -> dict[str, Any]:
    with store.reader(options=options) as reader:
        return {name: reader.tensor(name) for name in reversed(list(reader))}


def _in_slices(store: fastio.Store, options: fastio.Options) -> dict[str, Any]:
    with store.reader(options=options) as reader:
        return {
            name: np.concatenate([reader[name][:2], reader[name][2:]])
            if reader.info(name).shape
            else reader[name][...]
            for name in reader
        }


def _load_into(store: fastio.Store, options: fastio.Options) -> dict[str, Any]:
    native = {name: np.asarray(tensor) for name, tensor in tensors(1).items()}
    filled = {
        name: np.zeros(tensor.shape, tensor.dtype.newbyteorder("="))
        for name, tensor in native.items()
    }
    store.load_into(filled, options=options)
    return filled


WAYS: dict[str, Callable[[fastio.Store, fastio.Options], dict[str, Any]]] = {
    "load": _load,
    "names": _load_names,
    "stream": _stream,
    "narrow stream": _narrow_stream,
    "one by one": _one_by_one,
    "backwards": _backwards,
    "slices": _in_slices,
    "load_into": _load_into,
}
