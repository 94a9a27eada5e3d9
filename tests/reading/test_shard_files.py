"""A shard's bytes may lie in files of any kind, which are opened when they are read."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import pytest

import fastio
from fastio import _native
from fastio.catalog import Catalog, Shard, ShardFiles
from fastio.catalog.table import ChecksumTable
from fastio.formats import huggingface
from fastio.reading.located import LocatedSource
from fastio.reading.reader import Reader
from fastio.reading.watch import Watch
from samples import bytes_of, data_start, expected_bytes, flip, same_bytes, write_model


class LateFiles:
    """Two files with the same bytes, which are opened when one of them is to be read."""

    is_sealed = True
    on_roots = True

    def __init__(self, paths: tuple[Path, Path], table: ChecksumTable) -> None:
        self.path = str(paths[0])
        self.nbytes = paths[0].stat().st_size
        self.table = table
        self.lacking: Mapping[str, str] = {}
        self.opened: list[Path] = []
        self._paths = paths

    @cached_property
    def replicas(self) -> tuple[_native.File, ...]:
        self.opened += self._paths
        return tuple(_native.File(str(path)) for path in self._paths)


@pytest.fixture
def paths(tmp_path: Path) -> tuple[Path, Path]:
    path, other = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    fastio.seal(write_model(path))
    other.write_bytes(path.read_bytes())
    return path, other


@pytest.fixture
def shard(paths: tuple[Path, Path]) -> Shard:
    (found,) = huggingface.locate(paths[0]).shards
    assert found.table is not None
    files = LateFiles(paths, found.table)
    return Shard(
        files, found.names, found.dtypes, found.shapes, found.begins, found.ends, found.metadata
    )


def _reader(shard: Shard, watch: Watch | None) -> Reader:
    def find(options: fastio.Options) -> LocatedSource:
        return LocatedSource(Catalog([shard], "late"), {}, watch=watch, again=find)

    return Reader(find)


def test_files_are_opened_once_when_the_first_tensor_is_read(
    shard: Shard, paths: tuple[Path, Path]
) -> None:
    assert isinstance(shard.files, LateFiles)
    with _reader(shard, Watch("continue")) as reader:
        assert reader.info("mask").path == str(paths[0])
        assert shard.take([0, 1]).files is shard.files
        assert shard.files.opened == []
        assert bytes_of(reader.tensor("mask")) == expected_bytes(paths[0])["mask"]
        assert same_bytes(reader.load(), expected_bytes(paths[0]))
        assert shard.files.opened == list(paths)


def test_damage_in_one_file_is_read_from_the_other_and_repaired(
    shard: Shard, paths: tuple[Path, Path]
) -> None:
    expected = expected_bytes(paths[0])
    flip(paths[0], data_start(paths[0]) + 100)
    repaired: list[tuple[ShardFiles, str]] = []
    watch = Watch("repair", lambda _, files, path: repaired.append((files, path)))
    with _reader(shard, watch) as reader:
        assert same_bytes(reader.load(), expected)
    assert repaired == [(shard.files, str(paths[0]))]
    damage, repair = watch.events()
    assert (damage.kind, damage.path) == ("fallback", str(paths[0]))
    assert (repair.kind, repair.path) == ("repair", str(paths[0]))


def test_a_source_with_replicas_is_never_mapped(shard: Shard) -> None:
    options = fastio.Options(mapping="auto")
    located = LocatedSource(Catalog([shard], "late"), {})
    assert located.narrowed(options) is options
    watched = LocatedSource(Catalog([shard], "late"), {}, watch=Watch("raise"))
    assert watched.narrowed(options).mapping == "never"


@pytest.mark.parametrize(("ranks", "kept"), [("1", False), ("2", True), ("1000000000", False)])
def test_ranks_of_this_host_are_looked_for_once(
    shard: Shard, monkeypatch: pytest.MonkeyPatch, ranks: str, kept: bool
) -> None:
    located = LocatedSource(Catalog([shard], "late"), {})
    monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    assert located.keep_cold is kept
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert located.keep_cold is kept
