"""load_into with names that share memory, as a model's tied parameters do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fastio
import testbed
from fastio.reading import agreement
from samples import bytes_of


class _Three(torch.nn.Module):
    """An embedding under three names, and a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = torch.nn.Embedding(20, 8)
        self.encoder = torch.nn.Module()
        self.decoder = torch.nn.Module()
        self.encoder.embed, self.decoder.embed = self.shared, self.shared
        self.body = torch.nn.Linear(8, 8)


class _Buffers(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        pos = torch.arange(4)
        self.register_buffer("pos", pos)
        self.register_buffer("same", pos)


class _Transposed(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Parameter(torch.randn(4, 6))
        self.b = torch.nn.Parameter(self.a.data.t())


class _Strided(torch.nn.Module):
    """Every second column, under two names."""

    def __init__(self) -> None:
        super().__init__()
        columns = torch.randn(4, 6)[:, ::2]
        self.register_buffer("x", columns)
        self.register_buffer("y", columns)


def _whole(model: torch.nn.Module, path: Path) -> Path:
    return fastio.save(model.state_dict(), path)


def _shards(model: torch.nn.Module, path: Path) -> Path:
    return fastio.save(model.state_dict(), path, shard_bytes=100)


def _by_one_name(model: torch.nn.Module, path: Path) -> Path:
    kept: dict[tuple[int, Any], tuple[str, torch.Tensor]] = {}
    for name, tensor in sorted(model.state_dict().items()):
        kept.setdefault((tensor.data_ptr(), tensor.numel()), (name, tensor))
    return fastio.save(dict(kept.values()), path)


def _store(model: torch.nn.Module, path: Path) -> Path:
    roots: list[Any] = [path]
    fastio.Store.create(roots, replicas=1).save(model.state_dict())
    return path


@pytest.mark.parametrize("kind", [_Three, _Buffers, _Transposed, _Strided])
@pytest.mark.parametrize("saved_by", [_whole, _shards, _by_one_name, _store])
@pytest.mark.parametrize("strict", [True, False])
def test_a_state_dict_with_tied_names_is_filled(
    kind: Callable[[], torch.nn.Module], saved_by: Any, strict: bool, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    saved = kind()
    source = saved_by(saved, tmp_path / "source")
    torch.manual_seed(2)
    filled = kind()
    report = fastio.Report()
    fastio.load_into(source, filled.state_dict(), strict=strict, report=report)
    for name, tensor in saved.state_dict().items():
        assert torch.equal(filled.state_dict()[name], tensor)
    assert report.unverified == ()


def test_arrays_that_are_the_same_memory_are_filled_once(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    path = fastio.save({"a": values, "b": values, "turned": values.T}, tmp_path / "file")
    memory = np.zeros((3, 4), np.float32)
    fastio.load_into(path, {"a": memory, "b": memory[:], "turned": memory.T})
    assert memory.tolist() == values.tolist()


def test_the_same_memory_in_reverse_is_filled(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.int16)
    path = fastio.save({"a": values, "b": values[::-1]}, tmp_path / "file")
    memory = np.zeros(12, np.int16)
    fastio.load_into(path, {"a": memory, "b": memory[::-1]})
    assert memory.tolist() == values.tolist()


@pytest.mark.parametrize("turned", [False, True])
def test_other_bytes_for_the_same_memory_are_refused_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turned: bool
) -> None:
    monkeypatch.setattr(agreement, "_PIECE_BYTES", 4096)  # more than one of them
    values = np.arange(6000, dtype=np.int32).reshape(60, 100)
    other = (values.T if turned else values).copy()
    other[-1, -1] += 1
    path = fastio.save({"one": values, "other": other}, tmp_path / "file")
    memory = np.full((60, 100), 7, np.int32)
    targets = {"one": memory, "other": memory.T if turned else memory}
    with pytest.raises(fastio.UsageError, match=r"'one' and 'other' overlap.*other bytes"):
        fastio.load_into(path, targets)
    assert (memory == 7).all()


def test_nan_and_every_byte_count_as_they_are(tmp_path: Path) -> None:
    values = np.array([np.nan, -0.0, 1.0], np.float32)
    path = fastio.save({"a": values, "b": values}, tmp_path / "same")
    memory = np.zeros(3, np.float32)
    fastio.load_into(path, {"a": memory, "b": memory})
    assert memory.tobytes() == values.tobytes()
    path = fastio.save({"a": values, "b": np.abs(values)}, tmp_path / "other")  # 0.0 == -0.0
    with pytest.raises(fastio.UsageError, match="overlap"):
        fastio.load_into(path, {"a": memory, "b": memory})


def test_parts_of_the_same_memory_are_refused(tmp_path: Path) -> None:
    path = fastio.save({"a": np.arange(8), "b": np.arange(8)}, tmp_path / "file")
    base = np.full(20, 7)
    for a, b in (
        (base[:8], base[1:9]),
        (base[:8], base[7:15]),
        (base[:16:2], base[:8]),
        (base[0:15:2], base[7::-1]),
    ):
        with pytest.raises(ValueError, match=r"'(a' and 'b|b' and 'a)' overlap"):
            fastio.load_into(path, {"a": a, "b": b})
    assert (base == 7).all()


def test_a_name_that_nothing_stands_for_is_refused(tmp_path: Path) -> None:
    path = fastio.save({"a": np.arange(8), "b": np.arange(4)}, tmp_path / "file")
    base = np.full(20, 7)
    targets = {"a": base[:8], "b": base[8:12]}
    for missing in (base[:9], base[12:], base[8:13], np.zeros(0), torch.ones(3)):
        with pytest.raises(fastio.TensorNotFoundError, match="'c'"):
            fastio.load_into(path, {**targets, "c": missing})
    with pytest.raises(fastio.TensorNotFoundError, match="'d'"):
        fastio.load_into(path, {**targets, "c": base[:8], "d": np.zeros(8)})
    assert (base == 7).all()
    fastio.load_into(path, {**targets, "c": base[:8], "d": torch.from_numpy(base)[8:12]})
    assert base[:12].tolist() == [*range(8), *range(4)]
    fastio.load_into(path, {**targets, "c": base[2:5]})  # a range of another one


class _Fused(torch.nn.Module):
    """Like attention whose q, k and v are ranges of one parameter."""

    def __init__(self) -> None:
        super().__init__()
        whole = torch.randn(12, 4)
        self.qkv = torch.nn.Parameter(whole)
        self.q, self.k, self.v = (torch.nn.Parameter(part) for part in whole.split(4))
        self.tied = self.q


@pytest.mark.parametrize("names", ["all", "the fused one", "without some"])
def test_ranges_of_a_tensor_are_filled_with_it(tmp_path: Path, names: str) -> None:
    saved, filled = _Fused(), _Fused()
    lacking = {"all": [], "the fused one": ["q", "k", "v", "tied"], "without some": ["k", "tied"]}
    state = {name: x for name, x in saved.state_dict().items() if name not in lacking[names]}
    path = fastio.save(state, tmp_path / "file")
    fastio.load_into(path, filled.state_dict())
    for name, tensor in saved.state_dict().items():
        assert torch.equal(filled.state_dict()[name], tensor)


@pytest.mark.parametrize("row", [0, 5, 11])
def test_other_bytes_for_a_range_are_refused_and_nothing_is_written(
    tmp_path: Path, row: int
) -> None:
    state = {name: tensor.clone() for name, tensor in _Fused().state_dict().items()}
    state["qkv"][row, 3] += 1
    path = fastio.save(state, tmp_path / "file")
    filled = _Fused()
    before = filled.qkv.detach().clone()
    with pytest.raises(fastio.UsageError, match=r"'qkv' and '\w+' overlap.*other bytes"):
        fastio.load_into(path, filled.state_dict())
    assert torch.equal(filled.qkv, before)


def test_ranges_that_one_tensor_holds_in_another_order_are_refused(tmp_path: Path) -> None:
    values = np.arange(12.0).reshape(3, 4)
    path = fastio.save({"a": values, "b": values[1]}, tmp_path / "file")
    memory = np.zeros(12)
    turned = memory.reshape(4, 3).T
    with pytest.raises(ValueError, match="overlap"):
        fastio.load_into(path, {"a": turned, "b": memory[4:8]})
    assert not memory.any()


def test_damage_is_found_in_each_of_the_names(tmp_path: Path) -> None:
    values = np.arange(2**19, dtype=np.int32)  # two chunks each
    for name in ("a", "b"):
        path = fastio.save({"a": values, "b": values}, tmp_path / name)
        with fastio.open(path) as reader:
            offset = reader.info(name).offset
        raw = bytearray(path.read_bytes())
        raw[offset + 5] ^= 1
        path.write_bytes(raw)
        memory = np.zeros_like(values)
        with pytest.raises(fastio.ChecksumError):
            fastio.load_into(path, {"a": memory, "b": memory})
        assert not memory.any()


def test_a_cold_file_and_a_small_limit(tmp_path: Path) -> None:
    saved, filled = _Three(), _Three()
    path = fastio.save(saved.state_dict(), tmp_path / "file")
    testbed.evict(path)
    options = fastio.Options(memory_limit_bytes=2**27)
    fastio.load_into(path, filled.state_dict(), options=options)
    assert bytes_of(filled.shared.weight) == bytes_of(saved.shared.weight)
