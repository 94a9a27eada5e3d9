"""Tensors over shards, and shards over roots."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from fastio.saving.origins import origins_of
from fastio.store import partition, placement


@hypothesis.given(
    rows=st.integers(0, 40),
    columns=st.integers(1, 3000),
    shard_bytes=st.integers(1, 30_000),
    strided=st.booleans(),
)
def test_a_large_tensor_is_cut_into_pieces_that_come_to_it(
    rows: int, columns: int, shard_bytes: int, strided: bool
) -> None:
    array = np.arange(rows * columns, dtype=np.uint16).reshape(rows, columns)
    given = np.asfortranarray(array) if strided else array
    found, cuts = partition.cut_large(origins_of({"a": given, "b": np.uint8(7)[...]}), shard_bytes)
    assert found.data_bytes == array.nbytes + 1
    if "a" not in cuts:
        assert array.nbytes <= shard_bytes or rows < 2
        assert sorted(found.names) == ["a", "b"]
        return
    assert cuts["a"].shape == (rows, columns)
    assert sum(found.shapes[found.names.index(one)][0] for one in cuts["a"].pieces) == rows
    for piece in cuts["a"].pieces:
        row = found.names.index(piece)
        assert found.nbytes[row] == found.shapes[row][0] * columns * 2
        assert found.nbytes[row] <= max(shard_bytes, columns * 2)
    groups = partition.groups(found, found.names, shard_bytes, "size")
    assert sorted(row for group in groups for row in group.rows) == list(range(len(found.names)))


def test_pieces_begin_where_direct_reads_can_go() -> None:
    array = np.zeros((10_000, 96), np.float32)
    found, cuts = partition.cut_large(origins_of({"a": array}), 2**20)
    sizes = [int(found.nbytes[found.names.index(one)]) for one in cuts["a"].pieces]
    assert len(sizes) == 4
    assert all(size % 4096 == 0 for size in sizes[:-1])


def test_names_of_pieces_clash_with_no_other_name() -> None:
    given = {"a": np.zeros((4, 1000)), "a[0:1]": np.zeros(3)}
    found, cuts = partition.cut_large(origins_of(given), 8000)
    assert len(set(found.names)) == len(found.names) == 5
    assert "a[0:1]" not in cuts["a"].pieces


@hypothesis.given(
    sizes=st.lists(st.integers(0, 10**6), min_size=1, max_size=200),
    weights=st.lists(st.floats(0.1, 10), min_size=1, max_size=6),
    replicas=st.integers(1, 6),
    how=st.sampled_from(placement.PLACEMENTS),
)
def test_each_shard_is_placed_on_different_roots(
    sizes: list[int], weights: list[float], replicas: int, how: str
) -> None:
    hypothesis.assume(replicas <= len(weights))
    roots = {f"{at:032x}": weight for at, weight in enumerate(weights)}
    shards = [(f"{at:05d}", nbytes) for at, nbytes in enumerate(sizes)]
    placed = placement.place(shards, roots, replicas, how)
    assert len(placed) == len(shards)
    for chosen in placed:
        assert len(set(chosen)) == len(chosen) == replicas
        assert set(chosen) <= roots.keys()
    assert placed == placement.place(shards, roots, replicas, how)


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("how", placement.PLACEMENTS)
@pytest.mark.parametrize("weights", [[1, 1], [1, 1, 1], [2, 1, 1], [3, 1, 1, 1, 1]])
def test_roots_have_their_shares(replicas: int, how: str, weights: list[float]) -> None:
    roots = {f"{at:032x}": weight for at, weight in enumerate(weights)}
    placed = placement.place([(f"{at}", 2**26) for at in range(120)], roots, replicas, how)
    total = sum(weights)
    for root, weight in roots.items():
        share = sum(root in chosen for chosen in placed) / 120
        if how == "rendezvous" or replicas == 1:
            assert share == pytest.approx(min(1, replicas * weight / total), abs=0.04)


def test_few_shards_move_when_a_root_goes() -> None:
    roots = {f"{at:032x}": 1.0 for at in range(5)}
    shards = [(f"{at}", 2**26) for at in range(400)]
    before = placement.place(shards, roots, 1, "rendezvous")
    gone = dict(list(roots.items())[1:])
    after = placement.place(shards, gone, 1, "rendezvous")
    moved = sum(one != other for one, other in zip(before, after, strict=True))
    assert moved < 400 * 0.35  # a fifth has to


def test_the_size_of_shards_follows_the_total_size() -> None:
    assert partition.shard_size(123, 10**12, 4) == 123
    assert partition.shard_size(None, 0, 1) == partition.SHARD_BYTES_MIN
    assert partition.shard_size(None, 10**13, 1) == partition.SHARD_BYTES_MAX
    assert partition.shard_size(None, 10**11, 2) == 2**31


def test_unknown_ways_are_refused() -> None:
    with pytest.raises(ValueError, match="placement='moon'"):
        placement.place([("0", 1)], {"a": 1.0}, 1, "moon")
    with pytest.raises(ValueError, match="partition='moon'"):
        partition.groups(origins_of({}), [], 1, "moon")
