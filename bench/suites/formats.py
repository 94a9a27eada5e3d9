"""How fast are other formats, beside fastio's own safetensors load and their own libraries?

The same tensors lie in a file of each format. Each load has a fresh process and memory that the
machine owns; a small load comes before. The ways run in mirrored rounds, cold and warm. Each load
touches one byte of each page within the clock. The bytes of each are compared with those of the
safetensors file after it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import fastio
from bench.measure import cache, machine
from bench.measure.guest_memory import Ballast
from bench.measure.rounds import rounds
from bench.measure.statistics import median, paired_ratio
from bench.paths import RESULTS
from bench.report.results import write

TENSORS = 24
SHAPE = (4096, 4096)  # float32: 64 MiB
NBYTES = TENSORS * 4096 * 4096 * 4
Tensors = dict[str, npt.NDArray[np.float32]]

# Loads argv[2] by the code in argv[1], which has `path`; a small file of the format comes before.
LOAD = """
import json, sys, time
import numpy as np
code, path, small = sys.argv[1:4]
names = {"path": small}
exec(code, names)
before, cpu = time.perf_counter(), time.process_time()
names["path"] = path
exec(code, names)
tensors = {name: np.asarray(tensor) for name, tensor in names["tensors"].items()}
for tensor in tensors.values():
    tensor.reshape(-1).view(np.uint8)[::4096].sum()
seconds, cpu_s = time.perf_counter() - before, time.process_time() - cpu
print(json.dumps({
    "seconds": seconds, "cpu_s": cpu_s,
    "sums": {name: int(tensor.view(np.uint64).sum()) for name, tensor in sorted(tensors.items())},
}))
"""
_OURS = "import fastio\ntensors = fastio.load(path)"
_OF_H5PY = """
import h5py
with h5py.File(path) as file:
    tensors = {name: file[name][()] for name in file}
"""


def _save_gguf(tensors: Tensors, path: Path) -> None:
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _save_torch(tensors: Tensors, path: Path) -> None:
    import torch

    torch.save({name: torch.from_numpy(tensor) for name, tensor in tensors.items()}, path)


def _save_hdf5(**how: Any) -> Callable[[Tensors, Path], None]:
    def save(tensors: Tensors, path: Path) -> None:
        import h5py

        with h5py.File(path, "w") as file:
            for name, tensor in tensors.items():
                file.create_dataset(name, data=tensor, **how)

    return save


def _save_npz(tensors: Tensors, path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, **tensors)  # type: ignore[arg-type]


SAVES: dict[str, Callable[[Tensors, Path], object]] = {
    "safetensors": lambda tensors, path: fastio.save(tensors, path, checksums=False),
    "npz": _save_npz,
    "torch": _save_torch,
    "gguf": _save_gguf,
    "hdf5": _save_hdf5(),
    "hdf5-gzip": _save_hdf5(chunks=(512, 1024), compression="gzip", compression_opts=1),
}
"""What makes a file of each format."""
LIBRARIES: dict[str, str] = {
    "npz": "import numpy as np\ntensors = dict(np.load(path))",
    "torch": "import torch\ntensors = torch.load(path, weights_only=True)",
    "gguf": "import gguf\ntensors = {t.name: t.data for t in gguf.GGUFReader(path).tensors}",
    "hdf5": _OF_H5PY,
    "hdf5-gzip": _OF_H5PY,
}
"""How each format's own library loads such a file."""
# Deflated bytes are slow to read: fewer of them.
_GZIP_TENSORS = 4


def ways() -> dict[str, tuple[str, str]]:
    """Return what is measured: the format and the code of each way, by name."""
    ours = {name: (name, _OURS) for name in SAVES}
    return ours | {f"{name}, its library": (name, code) for name, code in LIBRARIES.items()}


def make(folder: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Write a large and a small file of each format, and return their paths."""
    random = np.random.default_rng(1)
    tensors: Tensors = {
        # Of few values, so that deflate has something to do.
        f"t{at:02}": random.integers(0, 256, SHAPE).astype(np.float32)
        for at in range(TENSORS)
    }
    small: Tensors = {"t": np.ones((4, 4), np.float32)}
    large_paths, small_paths = {}, {}
    for name, save in SAVES.items():
        large_paths[name], small_paths[name] = folder / f"{name}.file", folder / f"{name}.small"
        some = dict(list(tensors.items())[:_GZIP_TENSORS]) if name == "hdf5-gzip" else tensors
        save(some, large_paths[name])
        chunked = {"t": np.ones((1024, 1024), np.float32)} if name == "hdf5-gzip" else small
        save(chunked, small_paths[name])
    return large_paths, small_paths


def measure(
    paths: tuple[dict[str, Path], dict[str, Path]], count: int
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Return what each way took in each round, cold and warm.

    Raises
    ------
    RuntimeError
        A load gave other bytes than that of the safetensors file.
    """
    large, small = paths
    all_ways = ways()
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    expected: dict[str, int] = {}
    with Ballast(NBYTES) as ballast:
        for state in ("cold", "warm"):
            found[state] = {name: [] for name in all_ways}
            for order in rounds(tuple(all_ways), count):
                for name in order:
                    format, code = all_ways[name]
                    (cache.evict if state == "cold" else cache.populate)(large[format])
                    ballast.free()
                    files = str(large[format]), str(small[format])
                    command = [sys.executable, "-c", LOAD, code, *files]
                    said = subprocess.run(command, capture_output=True, text=True, check=True)
                    taken = json.loads(said.stdout)
                    ballast.fill()
                    sums = taken.pop("sums")
                    expected = expected | {k: v for k, v in sums.items() if k not in expected}
                    if any(expected[key] != value for key, value in sums.items()):
                        raise RuntimeError(f"{name} gave other bytes")
                    found[state][name].append(taken)
                    print(state, name, taken, flush=True)
    return found


def document_of(
    found: dict[str, dict[str, list[dict[str, Any]]]], here: dict[str, Any]
) -> dict[str, Any]:
    """Return medians, and the ratios to the safetensors load and to each format's own library."""
    document: dict[str, Any] = {"machine": here, "nbytes": NBYTES, "states": {}}
    for state, ways_of in found.items():
        seconds = {name: [each["seconds"] for each in of] for name, of in ways_of.items()}
        rows = {}
        for name, of in seconds.items():
            row: dict[str, Any] = {
                "seconds": median(of),
                "cpu_s": median([each["cpu_s"] for each in ways_of[name]]),
            }
            if name in SAVES and name not in ("safetensors", "hdf5-gzip"):
                ratio = paired_ratio(seconds["safetensors"], of)
                row["beside_safetensors"] = [ratio.value, ratio.interval]
            if name in LIBRARIES:
                ratio = paired_ratio(seconds[f"{name}, its library"], of)
                row["beside_its_library"] = [ratio.value, ratio.interval]
            rows[name] = row
        document["states"][state] = rows
    return document


def main(arguments: Sequence[str]) -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        prog="python -m bench formats",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        here = machine.describe(Path(folder))
        document = document_of(measure(make(Path(folder)), asked.rounds), here)
    for state, rows in document["states"].items():
        for name, row in rows.items():
            print(state, name, row)
    write(asked.out or RESULTS / f"formats-{machine.slug(here)}.json", document)
    return 0
