"""HDF5 files: layouts, filters, fill values, links, and what is refused."""

import json
import sys
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest

import fastio
from fastio.formats import hdf5, hdf5_filters

_RANDOM = np.random.default_rng(1)
_VALUES = _RANDOM.integers(0, 99, (1000, 300)).astype(np.float32)

_LAYOUTS: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "chunks": {"chunks": (64, 70)},
    "gzip": {"chunks": (64, 70), "compression": "gzip"},
    "gzip, shuffle, fletcher32": {
        "chunks": (64, 70),
        "compression": "gzip",
        "shuffle": True,
        "fletcher32": True,
    },
    "shuffle": {"chunks": (64, 70), "shuffle": True},
    "fletcher32": {"chunks": (63, 70), "fletcher32": True},
    "lzf": {"chunks": (64, 70), "compression": "lzf"},
    "scaleoffset": {"chunks": (64, 70), "scaleoffset": 2},
}
_ENCODINGS = {
    "contiguous": None,
    "chunks": "chunks",
    "gzip": "deflate",
    "gzip, shuffle, fletcher32": "shuffle, deflate, fletcher32",
    "shuffle": "shuffle",
    "fletcher32": "fletcher32",
    "lzf": "h5py",
    "scaleoffset": "h5py",
}


@pytest.mark.parametrize("layout", list(_LAYOUTS))
def test_a_dataset_of_any_layout_is_that_of_h5py(tmp_path: Path, layout: str, engine: Any) -> None:
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("group/data", data=_VALUES, **_LAYOUTS[layout])
        file["other"] = np.arange(5)
    options = fastio.Options(engine=engine, mapping="never")
    report = fastio.Report()
    loaded = fastio.load(path, options=options, report=report)
    assert set(loaded) == {"group/data", "other"}
    assert np.array_equal(loaded["group/data"], _VALUES)
    assert np.array_equal(loaded["other"], np.arange(5))
    assert [each.encoding for each in report.decoded] == (
        [] if _ENCODINGS[layout] is None else [_ENCODINGS[layout]]
    )
    with fastio.open(path, options=options) as reader, h5py.File(path) as file:
        for index in (np.s_[100:200, 5], np.s_[:, 299], np.s_[::-7, 3:290:4], np.s_[[9, 3]]):
            expected = file["group/data"][()][index]
            assert np.array_equal(reader["group/data"][index], expected)
        assert np.array_equal(dict(reader.stream())["group/data"], _VALUES)


def test_a_slice_decodes_only_its_chunks(tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("data", data=_VALUES, chunks=(100, 50), compression="gzip")
        with_chunk = file["data"].id.get_chunk_info_by_coord((200, 100))
    with fastio.open(path) as reader:
        assert np.array_equal(reader["data"][210:220, 110:150], _VALUES[210:220, 110:150])
        (decoded,) = reader.report.decoded
    assert decoded.nbytes == 100 * 50 * 4
    assert decoded.stored_bytes == with_chunk.size


@pytest.mark.parametrize(
    "dtype",
    ["?", "u1", "i1", "<u2", ">i2", "<f2", "<u4", ">i4", "<f4", ">f4", "<u8", "<i8", ">f8", "<c8"],
)
@pytest.mark.parametrize("layout", ["contiguous", "chunks", "gzip, shuffle, fletcher32", "lzf"])
@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_each_dtype_is_that_of_h5py(
    tmp_path: Path, dtype: str, layout: str, framework: Any
) -> None:
    path = tmp_path / "m.h5"
    values = _RANDOM.integers(0, 2, (130, 75)).astype(dtype)
    with h5py.File(path, "w") as file:
        file.create_dataset("data", data=values, **_LAYOUTS[layout])
    loaded = fastio.load(path, framework=framework)["data"]
    expected = values.astype(values.dtype.newbyteorder("="))
    found: npt.NDArray[Any] = np.asarray(loaded)
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)


def test_fill_values_scalars_texts_and_attributes(tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        file.attrs["version"] = 3
        file.attrs["name"] = "a model"
        file.create_group("g").attrs["shape"] = np.arange(3)
        file["g/scalar"] = 2.5
        file["g/scalar"].attrs["unit"] = b"m"
        file.create_dataset("never written", (3, 4), "f4", fillvalue=7)
        file.create_dataset("no chunk", (30, 4), "f4", chunks=(10, 4), fillvalue=7)
        sparse = file.create_dataset("sparse", (100, 9), ">i2", chunks=(10, 4), fillvalue=-2)
        sparse[33:35, 2:] = 1
        file.create_dataset("zeros", (100,), "f4", chunks=(10,))
        file["empty"] = np.zeros((0, 5))
        file["null"] = h5py.Empty("f4")
        file["bytes"] = np.array([b"ab", b"c"])
        file["text"] = "é"
        file["texts"] = np.array(["a", "bc"], dtype=h5py.string_dtype())
        compact = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        compact.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((5,))
        made = h5py.h5d.create(file.id, b"compact", h5py.h5t.STD_I32BE, space, compact)
        made.write(h5py.h5s.ALL, h5py.h5s.ALL, np.arange(5, dtype=np.int32))
        expected = {name: file[name][()] for name in ("never written", "no chunk", "sparse")}
    loaded = fastio.load(path)
    for name, values in expected.items():
        assert np.array_equal(loaded[name], values), name
    assert loaded["sparse"].dtype == np.int16
    assert not loaded["zeros"].any()
    assert loaded["g/scalar"].tolist() == 2.5
    assert loaded["empty"].shape == (0, 5)
    assert loaded["bytes"].tolist() == [[97, 98], [99, 0]]
    assert loaded["compact"].tolist() == [0, 1, 2, 3, 4]
    assert not {"null", "text", "texts"} & set(loaded)
    with fastio.open(path) as reader:
        assert dict(reader.metadata) == {
            "version": "3",
            "name": "a model",
            "g@shape": "[0, 1, 2]",
            "g/scalar@unit": "m",
            "null@": "null",
            "text@": "é",
            "texts@": '["a", "bc"]',
            "@groups": "[]",
            "numpy.dtypes": '{"bytes": "|S2"}',
        }
        assert np.array_equal(reader["sparse"][30:40], expected["sparse"][30:40])


def test_links_within_the_file_are_followed(tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        file["a/data"] = _VALUES
        file["hard"] = file["a/data"]
        file["soft"] = h5py.SoftLink("/a/data")
        file["group"] = file["a"]
        file["a/again"] = file["/"]  # a circle
        file["a/here"] = h5py.SoftLink("/a")
        file["a/nowhere"] = h5py.SoftLink("/nothing")
    loaded = fastio.load(path)
    assert set(loaded) == {"a/data", "hard", "soft", "group/data"}
    for values in loaded.values():
        assert np.array_equal(values, _VALUES)


def test_the_weights_of_a_keras_model_have_the_names_of_their_groups(tmp_path: Path) -> None:
    """The layout of ``model.save_weights("x.weights.h5")`` in Keras 3."""
    path = tmp_path / "x.weights.h5"
    with h5py.File(path, "w") as file:
        file["layers/dense/vars/0"] = _VALUES
        file["layers/dense/vars/1"] = _VALUES[0]
        file.create_group("optimizer/vars")
    loaded = fastio.load(path, framework="torch")
    assert loaded["layers/dense/vars/0"].shape == (1000, 300)
    assert np.array_equal(loaded["layers/dense/vars/1"], _VALUES[0])


# ---- what is refused


def _external_link(file: h5py.File) -> None:
    file["x"] = h5py.ExternalLink("other.h5", "/data")


def _external(file: h5py.File) -> None:
    file.create_dataset("x", (10,), "f4", external=[("/etc/passwd", 0, 40)])


def _virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((10,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "data", (10,))
    file.create_virtual_dataset("x", layout)


def _compound(file: h5py.File) -> None:
    file["x"] = np.zeros(3, [("a", "f4"), ("b", "i4")])


def _complex128(file: h5py.File) -> None:
    file["x"] = np.zeros(3, complex)


def _reference(file: h5py.File) -> None:
    file["y"] = np.zeros(3)
    file.create_dataset("x", data=file["y"].ref, dtype=h5py.ref_dtype)


def _ragged(file: h5py.File) -> None:
    file.create_dataset("x", (2,), h5py.vlen_dtype(np.float32))


_REFUSED = {
    _external_link: "'x' lies in another file, 'other.h5'",
    _external: "'x' lies in other files",
    _virtual: "'x' lies in other files",
    _compound: "'x' has the dtype",
    _complex128: "'x' has the dtype 'complex128'",
    _reference: "'x' has Python objects|'x' has the dtype",
    _ragged: "'x' has Python objects|'x' has the dtype",
}


@pytest.mark.parametrize("make", list(_REFUSED), ids=lambda make: make.__name__)
def test_what_is_no_tensor_of_the_file_is_refused_by_name(tmp_path: Path, make: Any) -> None:
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        make(file)
    with pytest.raises(fastio.FormatError, match=_REFUSED[make]) as raised:
        fastio.load(path)
    assert raised.value.path == str(path)


@pytest.mark.parametrize("filters", ["gzip", "fletcher32", "gzip, shuffle, fletcher32"])
def test_a_damaged_chunk_is_refused_with_its_place(tmp_path: Path, filters: str) -> None:
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("data", data=_VALUES, **_LAYOUTS[filters])
        chunk = file["data"].id.get_chunk_info(5)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset + chunk.size // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(fastio.FormatError, match="'data' cannot be decoded") as raised:
        fastio.load(path)
    assert raised.value.offset == chunk.byte_offset


def test_a_deflated_bomb_takes_no_more_than_its_chunk(tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        made = file.create_dataset("data", (10,), "f4", chunks=(10,), compression="gzip")
        made.id.write_direct_chunk((0,), zlib.compress(bytes(10**8)))
    with pytest.raises(fastio.FormatError, match="more bytes come"):
        fastio.load(path)


def test_a_filter_that_was_left_out_for_a_chunk_is_not_undone(tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        made = file.create_dataset("data", (20,), "f4", chunks=(10,), compression="gzip")
        made[:] = 3
        values = np.arange(10, dtype=np.float32)
        made.id.write_direct_chunk((10,), values.tobytes(), filter_mask=1)
    loaded = fastio.load(path)["data"]
    assert loaded.tolist() == [3.0] * 10 + values.tolist()


@pytest.mark.parametrize("nbytes", [0, 1, 2, 3, 719, 720, 721, 100_003])
@pytest.mark.parametrize("kind", ["random", "zeros", "ones"])
def test_fletcher32_is_that_of_the_library(tmp_path: Path, nbytes: int, kind: str) -> None:
    values = {
        "random": _RANDOM.integers(0, 256, nbytes, np.uint8),
        "zeros": np.zeros(nbytes, np.uint8),
        "ones": np.full(nbytes, 255, np.uint8),
    }[kind]
    if not nbytes:
        assert hdf5_filters.fletcher32(memoryview(b"")) == bytes(4)
        return
    with h5py.File(tmp_path / "m.h5", "w") as file:
        made = file.create_dataset("data", data=values, chunks=(nbytes,), fletcher32=True)
        file.flush()
        _, stored = made.id.read_direct_chunk((0,))
    assert hdf5_filters.fletcher32(values.data) == stored[-4:]


def test_the_error_without_h5py_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        file["data"] = _VALUES
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"fastio-tensor\[hdf5\]"):
        fastio.load(path)


def test_attributes_of_arrays_and_bytes_are_json(tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        file.attrs["names"] = np.array([b"a", b"b"])
        file.attrs["texts"] = ["x", "y"]
        file["data"] = np.zeros(2)
    with fastio.open(path) as reader:
        assert {key: json.loads(value) for key, value in reader.metadata.items()} == {
            "names": ["a", "b"],
            "texts": ["x", "y"],
            "@groups": [],
        }


# ---- types that h5py calls by a dtype, and that are stored otherwise


def _enum(base: Any) -> Any:
    made = h5py.h5t.enum_create(base)
    made.enum_insert(b"FALSE", 0)
    made.enum_insert(b"TRUE", 1)
    return made


def _cut(base: Any, precision: int, offset: int = 0) -> Any:
    made = base.copy()
    made.set_precision(precision)
    made.set_offset(offset)
    return made


def _bfloat16() -> Any:
    made = h5py.h5t.IEEE_F16LE.copy()
    made.set_fields(15, 7, 8, 0, 7)
    made.set_ebias(127)
    return made


def _padded_complex() -> Any:
    made = h5py.h5t.create(h5py.h5t.COMPOUND, 16)
    made.insert(b"r", 0, h5py.h5t.IEEE_F32LE)
    made.insert(b"i", 8, h5py.h5t.IEEE_F32LE)
    return made


_STORED_OTHERWISE: dict[str, tuple[Any, Any]] = {
    "bool in 32 bits": (_enum(h5py.h5t.STD_I32LE), np.array([True, False, True, True])),
    "12 of 16 bits": (_cut(h5py.h5t.STD_I16LE, 12, 4), np.array([1, 2, -3, 4], "i2")),
    "40 of 64 bits": (_cut(h5py.h5t.STD_I64LE, 40), np.array([1, -2, 3])),
    "bfloat16": (_bfloat16(), np.array([1, 2, 3, 4], "f4")),
    "padded complex": (_padded_complex(), np.array([1 + 2j, 3], "c8")),
}


@pytest.mark.parametrize("case", list(_STORED_OTHERWISE))
@pytest.mark.parametrize("chunks", [None, (2,)])
def test_values_that_are_stored_otherwise_are_those_of_h5py(
    tmp_path: Path, case: str, chunks: Any
) -> None:
    stored, values = _STORED_OTHERWISE[case]
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    if chunks:
        properties.set_chunk(chunks)
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        space = h5py.h5s.create_simple((len(values),))
        made = h5py.h5d.create(file.id, b"x", stored, space, properties)
        made.write(h5py.h5s.ALL, h5py.h5s.ALL, values)
        file.attrs["behind"] = np.arange(500.0)
        expected = file["x"][:]
    report = fastio.Report()
    found = fastio.load(path, report=report)["x"]
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)
    assert [each.encoding for each in report.decoded] == ["h5py"]


def test_byte_strings_are_unshuffled_by_their_length(tmp_path: Path) -> None:
    values = np.array([b"abcde", b"fghij", b"klmno", b"pqrst"] * 5)
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.create_dataset("s", data=values, chunks=(7,), compression="gzip", shuffle=True)
    assert fastio.load(tmp_path / "m.h5")["s"].tobytes() == values.tobytes()


def test_arrays_as_values_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.create_dataset("x", (3,), np.dtype(("i1", (2,))))
    with pytest.raises(fastio.FormatError, match="arrays as its values"):
        fastio.load(tmp_path / "m.h5")


def test_opening_takes_no_memory_for_values_that_are_not_stored(tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("chunks", (10**9,), "u1", chunks=(1,), fillvalue=1)
        file.create_dataset("none", (10**12,), "f8")
        small = file.create_dataset("gaps", (40_000, 2), "u1", chunks=(2, 1), fillvalue=3)
        small[7] = 5
        expected = small[:]
    tracemalloc.start()
    with fastio.open(path) as reader:
        assert reader.info("none").nbytes == 8 * 10**12
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
        tracemalloc.stop()
        assert np.array_equal(reader.tensor("gaps"), expected)


def test_groups_that_link_to_each_other_again_and_again_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hdf5, "_MEMBERS_MAX", 1000)
    with h5py.File(tmp_path / "m.h5", "w") as file:
        for at in range(30):
            group = file.require_group(f"g{at}")
            group["one"] = file.require_group(f"g{at + 1}")
            group["two"] = file[f"g{at + 1}"]
    with pytest.raises(fastio.FormatError, match="too many links"):
        fastio.load(tmp_path / "m.h5")
