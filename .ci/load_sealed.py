"""Seals a small model, loads it past the page cache, checks: `load_sealed.py uring|pread|best`.

`best` is io_uring where the kernel gives a ring. Needs nothing but fastio, so it runs where only a
wheel is installed.
"""

import ctypes
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

import fastio


def _kernel_gives_a_ring() -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    ring = libc.syscall(425, 8, ctypes.create_string_buffer(120))
    if ring >= 0:
        os.close(ring)
    return bool(ring >= 0)


def _write_model(path: Path) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    tensors = {
        "large": rng.standard_normal((4096, 2048), dtype=np.float32),
        "small": rng.standard_normal((3, 5), dtype=np.float32),
    }
    header, begin = {}, 0
    for name, tensor in tensors.items():
        end = begin + tensor.nbytes
        header[name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": (begin, end)}
        begin = end
    text = json.dumps(header).encode()
    data = b"".join(tensor.tobytes() for tensor in tensors.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return tensors


def _main() -> None:
    expected = sys.argv[1]
    if expected == "best":
        expected = "uring" if _kernel_gives_a_ring() else "pread"
    print(fastio.engine_report())
    with tempfile.TemporaryDirectory(dir=".") as folder:
        source, sealed = Path(folder, "plain.safetensors"), Path(folder, "sealed.safetensors")
        tensors = _write_model(source)
        fastio.seal(source, sealed)
        report = fastio.Report()
        options = fastio.Options(cache="bypass")
        loaded = fastio.load(sealed, verify="require", options=options, report=report)
    print(report)
    assert loaded.keys() == tensors.keys()
    assert all(np.array_equal(loaded[name], tensors[name]) for name in tensors)
    assert report.chunks_verified > 0
    assert report.engine == expected, f"{report.engine} was chosen, {expected} expected"
    if expected == "pread":
        print("io_uring is unavailable:", fastio.engine_report().engines["uring"].reason)


_main()
