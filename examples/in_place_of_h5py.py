"""A program for h5py, with fastio in its place: only the import differs.

    python examples/in_place_of_h5py.py [FOLDER [ROWS]]

It saves and reads an array, then saves the parameters of a model, reads them and sets them. The
files are sealed safetensors files, so every byte is verified when it is read. Names that end in .h5
would be HDF5 files.
"""

import sys
from pathlib import Path

import numpy as np

import fastio as h5py


class Model:
    """Two layers, with parameters by name."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.parameters = {
            "dense_1/kernel": random.standard_normal((100, 64), np.float32),
            "dense_1/bias": np.zeros(64, np.float32),
            "dense_2/kernel": random.standard_normal((64, 10), np.float32),
            "dense_2/bias": np.zeros(10, np.float32),
        }

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The output for some rows."""
        p = self.parameters
        hidden = np.maximum(x @ p["dense_1/kernel"] + p["dense_1/bias"], 0)
        output: np.ndarray = hidden @ p["dense_2/kernel"] + p["dense_2/bias"]
        return output


def main(folder: Path, rows: int) -> None:
    """Save and read the array, and then the model."""
    data = np.random.default_rng(0).random((rows, 100), np.float32)
    with h5py.File(folder / "data.safetensors", "w") as f:
        made = f.create_dataset("data", data=data)
        made.attrs["source"] = "random"
    with h5py.File(folder / "data.safetensors", "r") as f:
        assert f["data"].shape == (rows, 100)
        assert np.array_equal(f["data"][10:20, 3], data[10:20, 3])
        assert np.array_equal(f["data"][...], data)
        print(f"{f['data'].nbytes} bytes of {f['data'].attrs['source']} data")

    trained, fresh = Model(seed=1), Model(seed=2)
    with h5py.File(folder / "model.safetensors", "w") as f:
        f.attrs["epoch"] = 3
        for name, values in trained.parameters.items():
            f.create_dataset(name, data=values)
    with h5py.File(folder / "model.safetensors", "r") as f:
        for name in fresh.parameters:
            fresh.parameters[name] = f[name][:]
        print(f"the parameters of epoch {f.attrs['epoch']}: {', '.join(f)}")
    assert np.array_equal(fresh(data[:5]), trained(data[:5]))


if __name__ == "__main__":
    main(
        Path(sys.argv[1] if len(sys.argv) > 1 else "."),
        int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000,
    )
