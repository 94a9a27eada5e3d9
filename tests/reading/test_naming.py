"""A reader by name: a mapping of views; none is read."""

from collections.abc import ItemsView, ValuesView
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import fastio
from samples import MODEL, expected_bytes, write_model


@pytest.fixture
def reader(tmp_path: Path) -> fastio.Reader:
    return fastio.open(fastio.seal(write_model(tmp_path / "model")))


def test_items_and_values_are_views_in_file_order_and_read_nothing(reader: fastio.Reader) -> None:
    items, values = reader.items(), reader.values()
    assert isinstance(items, ItemsView)
    assert isinstance(values, ValuesView)
    assert len(items) == len(values) == len(reader) == len(MODEL)
    for _ in range(2):  # again from the start
        assert [name for name, _ in items] == [view.name for view in values] == list(MODEL)
        assert all(isinstance(view, fastio.TensorView) for view in values)
    assert reader.report.nbytes == 0
    expected = expected_bytes(Path(reader.info("mask").path))
    assert {name: view[...].tobytes() for name, view in items} == expected
    assert {name: view[...].tobytes() for name, view in dict(reader).items()} == expected


def test_get_gives_a_view_or_the_default(reader: fastio.Reader) -> None:
    view = reader.get("mask")
    assert view is not None
    assert (view.name, view.shape) == ("mask", (77,))
    assert reader.get("task") is None
    assert reader.get("task", 5) == 5
    assert reader.get(3, 5) == 5  # type: ignore[arg-type]


def test_a_closed_reader_has_no_items(reader: fastio.Reader) -> None:
    items = reader.items()
    reader.close()
    for call in (reader.items, reader.values, reader.keys, lambda: list(items)):
        with pytest.raises(fastio.UsageError, match="closed"):
            call()
    with pytest.raises(fastio.UsageError, match="closed"):
        reader.get("mask")
    assert reader._ipython_key_completions_() == []
    assert "closed" in reader._repr_html_()


def test_names_are_completed_in_a_shell(reader: fastio.Reader) -> None:
    assert reader._ipython_key_completions_() == list(MODEL)
    path = reader.info("mask").path
    with fastio.safe_open(path, framework="np") as file:
        assert file._ipython_key_completions_() == sorted(MODEL)


def test_a_notebook_shows_a_table_of_the_tensors(reader: fastio.Reader) -> None:
    shown = reader._repr_html_()
    assert shown.count("<tr>") == 1 + len(MODEL)
    for name, (dtype, shape) in MODEL.items():
        assert f"<td>{name}</td><td>{dtype}</td><td>{list(shape)}</td>" in shown
    assert reader.report.nbytes == 0


def test_the_table_is_bounded_and_escaped(tmp_path: Path) -> None:
    names = ["<script>alert(1)</script>", "a" * 5000, *(f"t{i:04}" for i in range(3000))]
    safetensors.numpy.save_file({name: np.zeros(1) for name in names}, tmp_path / "m")
    with fastio.open(tmp_path / "m") as reader:
        shown = reader._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
    assert len(shown) < 5000
    assert "… and 2982 more" in shown


def test_a_store_is_shown_too_without_opening_its_shards(tmp_path: Path) -> None:
    with fastio.Store.create([tmp_path / "a"], replicas=1, shard_bytes=1000) as store:
        store.save({"long": np.arange(1000), "b": np.ones(3)})
        for shard in (tmp_path / "a" / "shards").iterdir():
            shard.unlink()
        with store.reader() as reader:
            shown = reader._repr_html_()
            assert [view.shape for view in reader.values()] == [(3,), (1000,)]
    assert "<td>long</td><td>I64</td><td>[1000]</td><td>8.0 kB</td>" in shown
