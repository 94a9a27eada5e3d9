"""fastio.File does what h5py.File does, over HDF5 and over safetensors files."""

import contextlib
import importlib.util
import os
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import pytest
import torch

import fastio
from fastio.dropin import hierarchy_content
from samples import flip
from testbed import run_python

_EXAMPLE = Path(__file__).parents[2] / "examples" / "in_place_of_h5py.py"
_VALUES = np.arange(1200, dtype=np.float64).reshape(30, 40)


@pytest.fixture(params=["data.safetensors", "data.h5"])
def path(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return tmp_path / str(request.param)


def _fill(file: Any) -> None:
    """Write as a program of h5py does."""
    data = file.create_dataset("data", data=_VALUES)
    data.attrs["unit"] = "m"
    data.attrs["scale"] = 0.5
    file["group/scalar"] = 3
    file["text"] = "some text"
    zeros = file.create_dataset("group/zeros", (10, 3), "i4")
    zeros[2:4, 1] = 7
    file.create_group("empty/inner")
    file.require_group("group").attrs["shape"] = np.arange(3)
    file.attrs["version"] = 2
    file.attrs["3"] = "3"


def test_what_is_written_is_read(path: Path) -> None:
    with fastio.File(path, "w") as file:
        _fill(file)
    with fastio.File(path) as file:
        assert sorted(file) == ["data", "empty", "group", "text"]
        assert sorted(file["group"].keys()) == ["scalar", "zeros"]
        assert list(file["empty"]) == ["inner"]
        assert list(file["empty/inner"]) == []
        data = file["data"]
        assert (data.shape, data.dtype, data.ndim, len(data)) == ((30, 40), np.float64, 2, 30)
        assert (data.size, data.nbytes, data.name) == (1200, 9600, "/data")
        for index in (
            np.s_[...],
            np.s_[:],
            np.s_[()],
            np.s_[3, 5:9],
            np.s_[::-2, 1],
            np.s_[[4, 2]],
        ):
            assert np.array_equal(data[index], _VALUES[index])
        assert np.array_equal(np.asarray(data), _VALUES)
        assert np.array_equal(list(data)[7], _VALUES[7])
        assert dict(data.attrs) == {"unit": "m", "scale": 0.5}
        assert file["group/scalar"][()] == 3
        assert file["/group"]["scalar"][()] == 3
        assert file["text"][()] == "some text"
        assert file["group/zeros"][:].sum() == 14
        assert np.array_equal(file["group"].attrs["shape"], [0, 1, 2])
        assert {key: file.attrs[key] for key in file.attrs} == {"version": 2, "3": "3"}
        assert file["group"].parent["data"].shape == (30, 40)
        assert "group/zeros" in file
        assert "group/none" not in file
        assert file.get("none") is None
        seen: dict[str, str] = {}
        file.visititems(lambda name, member: seen.__setitem__(name, type(member).__name__))
        assert seen["empty/inner"] == "Group"
        assert seen["group/zeros"] == "Dataset"
        assert len(seen) == 7
        assert file.visit(lambda name: name if name.endswith("zeros") else None) == "group/zeros"
    assert not file


def test_h5py_reads_what_fastio_writes_and_the_other_way_round(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.h5", tmp_path / "theirs.h5"
    with fastio.File(ours, "w") as file:
        _fill(file)
    with h5py.File(theirs, "w") as file:
        _fill(file)
    with h5py.File(ours) as one, h5py.File(theirs) as other:
        for path in ("data", "group/scalar", "group/zeros", "text"):
            assert np.array_equal(one[path][()], other[path][()])
            assert one[path].attrs.keys() == other[path].attrs.keys()
        assert dict(one.attrs) == dict(other.attrs)
        assert one["data"].id.get_offset() % 4096 == 0
        assert "empty/inner" in one
    with fastio.File(theirs) as file:
        assert np.array_equal(file["data"][:], _VALUES)
        assert file["text"][()] == "some text"
        assert file["data"].attrs["unit"] == "m"
        assert "empty/inner" in file


def test_a_file_of_fastio_is_a_sealed_safetensors_file(tmp_path: Path) -> None:
    path = tmp_path / "data.safetensors"
    with fastio.File(path, "w") as file:
        _fill(file)
    report = fastio.Report()
    loaded = fastio.load(path, verify="require", report=report)
    assert set(loaded) == {"data", "group/scalar", "group/zeros"}
    assert report.chunks_verified
    flip(path, path.stat().st_size - 100)
    with fastio.File(path) as file, pytest.raises(fastio.ChecksumError):
        file["data"][...]


def test_any_file_that_fastio_loads_can_be_read(tmp_path: Path) -> None:
    torch.save({"layer": {"weight": torch.ones(3)}, "epoch": 4}, tmp_path / "m.pt")
    with fastio.File(tmp_path / "m.pt") as file:
        assert file["layer.weight"][:].tolist() == [1, 1, 1]
        assert file.attrs["epoch"] == "4"  # as in the metadata of a reader


@pytest.mark.parametrize("mode", ["a", "r+"])
def test_a_file_of_another_format_is_not_written_anew(tmp_path: Path, mode: str) -> None:
    """It may have more than fastio.File keeps."""
    with fastio.File(tmp_path / "m.h5", "w") as file:
        file["x"] = 1
    torch.save({"x": torch.ones(3)}, tmp_path / "m.pt")
    for path in (tmp_path / "m.h5", tmp_path / "m.pt"):
        before = path.read_bytes()
        with pytest.raises(fastio.FormatError, match="not safetensors"):
            fastio.File(path, mode)
        assert path.read_bytes() == before


@pytest.mark.parametrize("mode", ["a", "r+"])
def test_a_file_is_changed_when_it_is_closed(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "data.safetensors"
    with fastio.File(path, "w") as file:
        _fill(file)
    before = path.read_bytes()
    with fastio.File(path, mode) as file:
        file["data"][0, :3] = -1
        file["new"] = np.ones(3)
        del file["group/zeros"], file.attrs["version"]
        assert path.read_bytes() == before
    with fastio.File(path) as file:
        assert file["data"][0, :4].tolist() == [-1, -1, -1, 3]
        assert file["new"][:].tolist() == [1, 1, 1]
        assert "group/zeros" not in file
        assert set(file.attrs) == {"3"}
        assert file["data"].attrs["unit"] == "m"


def test_a_group_is_removed_with_all_that_is_in_it(path: Path) -> None:
    with fastio.File(path, "w") as file:
        _fill(file)
        del file["group"], file["empty"]
        with pytest.raises(KeyError):
            del file["group"]
    with fastio.File(path) as file:
        assert sorted(file) == ["data", "text"]


def test_a_block_that_raises_changes_nothing(path: Path) -> None:
    with fastio.File(path, "w") as file:
        file["x"] = np.ones(3)
    before = path.read_bytes()
    with contextlib.suppress(KeyError), fastio.File(path, "w") as file:
        file["y"] = np.zeros(3)
        file["x"]
        raise AssertionError
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_values_are_copied_when_they_are_given(path: Path) -> None:
    values = np.ones(3)
    with fastio.File(path, "w") as file:
        file["x"] = values
        values[:] = 2
        got = file["x"][:]
        got[:] = 5
        assert file["x"][:].tolist() == [1, 1, 1]
    assert fastio.load(path)["x"].tolist() == [1, 1, 1]


def test_flush_saves_and_goes_on(path: Path) -> None:
    file = fastio.File(path, "w")
    file["a"] = np.ones(2)
    file.flush()
    assert set(fastio.load(path)) == {"a"}
    file["b"] = np.ones(2)
    file.close()
    file.close()
    assert set(fastio.load(path)) == {"a", "b"}


def test_large_zeros_take_a_file_in_place_of_memory(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hierarchy_content, "available_bytes", lambda: 1000)
    with fastio.File(path, "w") as file:
        data = file.create_dataset("data", (100, 30), "f4")
        assert isinstance(file._content.arrays["data"], np.memmap)
        data[50] = 1
        assert os.listdir(path.parent) == []
    assert fastio.load(path)["data"].sum() == 30


def test_modes(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        fastio.File(path)
    with pytest.raises(FileNotFoundError):
        fastio.File(path, "r+")
    with pytest.raises(ValueError, match="mode='rw'"):
        fastio.File(path, "rw")
    with fastio.File(path, "x") as file:
        file["x"] = 1
    for mode in ("w-", "x"):
        with pytest.raises(FileExistsError):
            fastio.File(path, mode)
    with fastio.File(path, "r") as file:
        for change in (
            lambda: file.create_dataset("y", data=1),
            lambda: file.create_group("y"),
            lambda: file.attrs.__setitem__("y", 1),
            lambda: file["x"].__setitem__((), 1),
            lambda: file.__delitem__("x"),
        ):
            with pytest.raises(fastio.UsageError, match="opened to be read"):
                change()
    with pytest.raises(fastio.UsageError, match="closed"):
        file["x"]


def test_what_cannot_be_made_is_refused(path: Path) -> None:
    with fastio.File(path, "w") as file:
        file["data"] = _VALUES
        with pytest.raises(fastio.UsageError, match="there already"):
            file["data"] = 1
        with pytest.raises(fastio.UsageError, match="is a dataset"):
            file["data/inner"] = 1
        with pytest.raises(fastio.UsageError, match="compression"):
            file.create_dataset("x", data=1, compression="gzip")
        with pytest.raises(fastio.UsageError, match="neither a shape"):
            file.create_dataset("x")
        with pytest.raises(fastio.UsageError, match="complex128"):
            file["x"] = np.zeros(3, complex)
        with pytest.raises(fastio.UsageError, match="without @"):
            file["a@b"] = 1
        with pytest.raises(KeyError, match=r"'dato'.*close: data"):
            file["dato"]
        with pytest.raises(KeyError, match="no attribute"):
            file.attrs["none"]
        with pytest.raises(TypeError):
            file.require_dataset("data", (3,), "f4")
        assert file.require_dataset("data", (30, 40), "f8").shape == (30, 40)
        file.create_dataset("turned", (40, 30), data=_VALUES)
        with pytest.raises(ValueError, match="reshape"):
            file.create_dataset("x", (7,), data=_VALUES)
    with fastio.File(path) as file:
        assert sorted(file) == ["data", "turned"]


def test_the_program_of_h5py_runs_with_fastio_in_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location("in_place_of_h5py", _EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    example.main(tmp_path, 10_000)
    assert capsys.readouterr().out.splitlines() == [
        "4000000 bytes of random data",
        "the parameters of epoch 3: dense_1, dense_2",
    ]


def test_files_of_fastio_need_no_h5py(tmp_path: Path) -> None:
    run_python(
        "import sys; sys.modules['h5py'] = None\n"
        "import fastio\n"
        f"with fastio.File({str(tmp_path / 'x.safetensors')!r}, 'w') as f: f['a'] = 1\n"
        "try: fastio.File('x.h5', 'w')\n"
        "except ImportError as error: assert 'fastio-tensor[hdf5]' in str(error)\n"
        "else: raise SystemExit('no error')\n"
    )


# ---- names and values that are easily lost


def test_attributes_of_any_name_come_back(path: Path) -> None:
    names = ["user@host", "@x", "x@", "@groups", "format", "fastio.x", "a/b", "100%", "é"]
    with fastio.File(path, "w") as file:
        file["d"] = np.ones(2)
        for name in names:
            file.attrs[name] = "pt"
            file["d"].attrs[name] = "v"
        file.attrs["text"] = "5"
        file.attrs["quoted"] = '"5"'
        file.attrs["none"] = "null"
    with fastio.File(path) as file:
        assert sorted(file) == ["d"]
        assert {name: file.attrs[name] for name in names} == dict.fromkeys(names, "pt")
        assert dict(file["d"].attrs) == dict.fromkeys(names, "v")
        assert (file.attrs["text"], file.attrs["quoted"]) == ("5", '"5"')
        assert file.attrs["none"] == "null"
        assert len(file.attrs) == len(names) + 3


def test_metadata_of_other_writers_are_texts(tmp_path: Path) -> None:
    fastio.save({"x": np.ones(2)}, tmp_path / "x.safetensors", metadata={"version": "1.10"})
    with fastio.File(tmp_path / "x.safetensors") as file:
        assert file.attrs["version"] == "1.10"


@pytest.mark.parametrize(
    "value", [1 + 2j, {"a": 1}, object(), None, [1, "a", {}], np.zeros(2, complex), b"\xff"]
)
def test_an_attribute_that_would_come_back_as_another_is_refused(path: Path, value: Any) -> None:
    with fastio.File(path, "w") as file:
        with pytest.raises(fastio.UsageError, match="'bad'"):
            file.attrs["bad"] = value
        file["x"] = 1
    with fastio.File(path) as file:
        assert list(file.attrs) == []


@pytest.mark.parametrize("dtype", ["c16", "S5", "g", "O", "M8[s]"])
def test_a_dtype_that_no_file_has_is_refused_at_once(path: Path, dtype: str) -> None:
    with fastio.File(path, "w") as file:
        with pytest.raises(fastio.UsageError, match="has the dtype"):
            file.create_dataset("x", (3,), dtype)
        file["ok"] = 1
    assert set(fastio.load(path)) == {"ok"}


def test_a_dtype_that_hdf5_lacks_is_refused_there(tmp_path: Path) -> None:
    values = np.ones(3, ml_dtypes.bfloat16)
    file = fastio.File(tmp_path / "x.h5", "w")
    with pytest.raises(fastio.UsageError, match="which an HDF5 file has not"):
        file["x"] = values
    with fastio.File(tmp_path / "x.safetensors", "w") as file:
        file["x"] = values
    assert fastio.load(tmp_path / "x.safetensors")["x"].dtype == ml_dtypes.bfloat16


def test_indexes_of_numpy_are_taken(path: Path) -> None:
    values = np.arange(5)
    with fastio.File(path, "w") as file:
        file["x"] = values
        file["y"] = values.reshape(5, 1)
    with fastio.File(path) as file:
        data = file["x"]
        assert data[np.int64(1)] == 1
        assert isinstance(data[0], np.integer)
        assert hash(data[0]) == hash(0)
        mask = np.array([True, False, True, False, True])
        assert data[mask].tolist() == [0, 2, 4]
        assert data[np.argsort([3, 1, 2])].tolist() == [1, 2, 0]
        assert file["y"][mask[:, None]].tolist() == [0, 2, 4]
        assert file["y"][:, None].shape == (5, 1, 1)


def test_removed_and_closed_members_say_so(path: Path) -> None:
    file = fastio.File(path, "w")
    file["g/x"] = np.ones(2)
    data = file["g/x"]
    del file["g/x"]
    for use in (lambda: data[:], lambda: data.__setitem__(0, 1)):
        with pytest.raises(KeyError, match="no longer there"):
            use()
    with pytest.raises(KeyError, match="no longer there"):
        data.attrs["a"] = 1
    assert list(file) == ["g"]
    file["g/x"] = 5
    group = file["g"]
    file.close()
    for use in (
        lambda: len(file),
        lambda: "g" in file,
        lambda: dict(file.attrs),
        lambda: file.get("g"),
        lambda: list(group),
    ):
        with pytest.raises(fastio.UsageError, match="closed"):
            use()


def test_names_that_are_no_paths_are_refused(tmp_path: Path) -> None:
    for name in ("p//q", "/x", "y/", "./z"):
        fastio.save({name: np.ones(1)}, tmp_path / "x.safetensors")
        with pytest.raises(fastio.UsageError, match=r"is no path: fastio\.open reads"):
            fastio.File(tmp_path / "x.safetensors")
