"""Files that packages ship, as programs of many years and machines wrote them.

They are those of numpy's and h5py's own tests; a package that leaves them out skips.
"""

import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest

import fastio

_OF_NUMPY = Path(np.__file__).parent / "lib" / "tests" / "data"
_OF_H5PY = Path(h5py.__file__).parent / "tests" / "data_files"


def _there(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"this release of {path.parts[-4]} ships no {path.name}")
    return path


@pytest.mark.parametrize("name", ["python3.npy", "win64python2.npy"])
def test_an_array_of_another_python_is_that_of_numpy(name: str) -> None:
    path = _there(_OF_NUMPY / name)
    (array,) = fastio.load(path).values()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert np.array_equal(array, np.load(path))


@pytest.mark.parametrize(
    "name", ["py2-objarr.npy", "py3-objarr.npy", "py2-objarr.npz", "py3-objarr.npz"]
)
def test_python_objects_are_refused_and_not_made(name: str) -> None:
    with pytest.raises(fastio.FormatError, match="Python objects, which only pickle reads"):
        fastio.load(_there(_OF_NUMPY / name))


def test_texts_of_a_big_endian_machine_are_those_of_h5py() -> None:
    path = _there(_OF_H5PY / "vlen_string_s390x.h5")
    with fastio.File(path) as ours, h5py.File(path) as theirs:
        assert sorted(ours) == sorted(theirs)
        for name in theirs:
            expected = theirs[name][()]
            if isinstance(expected, bytes):
                assert ours[name][()] == expected.decode()
            elif theirs[name].dtype.kind == "S":
                stored = np.frombuffer(expected.tobytes(), np.uint8)
                assert np.array_equal(ours[name][...].reshape(-1), stored)


def test_compound_values_are_refused_by_name() -> None:
    with pytest.raises(fastio.FormatError, match="which no tensor has"):
        fastio.load(_there(_OF_H5PY / "compound-dtype-complex.h5"))
