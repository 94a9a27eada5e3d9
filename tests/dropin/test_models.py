"""save_model beside that of safetensors: the same names and metadata in the file, and both packages
load it back.
"""

import inspect
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch

import fastio
import fastio.torch
from saving.beside import (
    Refused,
    Side,
    assert_same_tensors,
    both,
    kind,
    metadata_seen_by_safetensors,
    sides,
)


class _Tied(torch.nn.Module):
    """Two layers that share a weight, and one with its own."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(6, 4)
        self.body = torch.nn.Linear(4, 4)
        self.head = torch.nn.Linear(4, 6, bias=False)
        self.head.weight = self.embed.weight


class _Views(torch.nn.Module):
    """Buffers in one storage of twelve values, by name."""

    def __init__(self, **views: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        storage = torch.arange(12.0)
        for name, view in views.items():
            self.register_buffer(name, view(storage))


def _part(begin: int, end: int) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda storage: storage[begin:end]


_WHOLE = _part(0, 12)
_MODELS: dict[str, Callable[[], torch.nn.Module]] = {
    "untied": lambda: torch.nn.Linear(4, 4),
    "tied": _Tied,
    "whole and a part": lambda: _Views(whole=_WHOLE, part=_part(6, 12)),
    "a part before the whole": lambda: _Views(a_part=_part(0, 6), whole=_WHOLE),
    "whole twice": lambda: _Views(b=_WHOLE, a=_WHOLE),
    "whole in two shapes": lambda: _Views(b=_WHOLE, a=lambda storage: storage.reshape(3, 4)),
    "transposed": lambda: _Views(a=lambda storage: storage.reshape(3, 4).T),
    "parts that chain": lambda: _Views(a=_part(0, 7), b=_part(6, 12), whole=_WHOLE),
    "half precision": lambda: _Tied().half(),
}


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Side, Side]:
    """Both."""
    return sides("pt", tmp_path)


def _seeded(make: Callable[[], torch.nn.Module], seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return make()


@pytest.mark.parametrize("metadata", [None, {}, {"a": "b"}], ids=["none", "empty", "one"])
@pytest.mark.parametrize("what", _MODELS)
def test_the_same_names_and_metadata_are_saved(
    what: str, metadata: dict[str, str] | None, pair: tuple[Side, Side]
) -> None:
    given = dict(metadata) if metadata is not None else None
    theirs, ours = pair
    answers = both(
        (theirs, ours),
        lambda side: side.drop_in.save_model(
            _seeded(_MODELS[what]),
            str(side.path),
            dict(metadata) if metadata is not None else None,
        ),
    )
    assert answers == (None, None)
    saved, expected = (safetensors.torch.load_file(side.path) for side in (ours, theirs))
    assert_same_tensors(saved, expected)
    seen = metadata_seen_by_safetensors(ours.path)[0]
    users = metadata_seen_by_safetensors(theirs.path)[0] or {}
    assert seen == (users if metadata else {"format": "pt"} | users)
    assert fastio.safe_open(ours.path, "pt").metadata() == seen
    assert metadata == given


@pytest.mark.parametrize("what", _MODELS)
def test_each_package_loads_the_models_of_the_other(what: str, pair: tuple[Side, Side]) -> None:
    saved = _seeded(_MODELS[what])
    for writer, reader in itertools.product(pair, repeat=2):
        writer.drop_in.save_model(saved, writer.path)
        model = _seeded(_MODELS[what], seed=1)
        for tensor in model.state_dict().values():
            tensor.zero_()
        assert reader.drop_in.load_model(model, writer.path) == (set(), [])
        for name, tensor in saved.state_dict().items():
            assert torch.equal(model.state_dict()[name], tensor)


def test_the_file_is_sealed(tmp_path: Path) -> None:
    fastio.torch.save_model(_Tied(), tmp_path / "file")
    assert len(fastio.load(tmp_path / "file", framework="torch", verify="require")) == 3


def test_the_users_metadata_of_a_name_stays(pair: tuple[Side, Side]) -> None:
    for side in pair:
        side.drop_in.save_model(_Tied(), side.path, {"head.weight": "mine"})
        assert metadata_seen_by_safetensors(side.path)[0] == {"head.weight": "mine"}


def test_the_metadata_of_the_caller_stays_as_it_was(tmp_path: Path) -> None:
    metadata = {"a": "b"}
    fastio.torch.save_model(_Tied(), tmp_path / "file", metadata)
    assert metadata == {"a": "b"}
    assert fastio.safe_open(tmp_path / "file", "pt").metadata() == {
        "a": "b",
        "head.weight": "embed.weight",
    }


def test_arguments_by_position_and_by_name(pair: tuple[Side, Side]) -> None:
    def by_position(side: Side) -> Any:
        return side.drop_in.save_model(_Tied(), side.path, {"a": "b"}, True)

    def by_name(side: Side) -> Any:
        return side.drop_in.save_model(
            model=_Tied(), filename=str(side.path), metadata={"a": "b"}, force_contiguous=False
        )

    for call in (by_position, by_name):
        assert both(pair, call) == (None, None)
        seen = [metadata_seen_by_safetensors(side.path)[0] for side in pair]
        assert seen[0] == seen[1] == {"a": "b", "head.weight": "embed.weight"}


def test_without_force_contiguous_a_transposed_parameter_is_refused(
    pair: tuple[Side, Side],
) -> None:
    transposed = _MODELS["transposed"]
    theirs, ours = both(
        pair, lambda side: side.drop_in.save_model(transposed(), side.path, None, False)
    )
    assert isinstance(theirs.error, ValueError)
    assert isinstance(ours.error, ValueError)
    assert "force_contiguous=True" in str(ours.error)


class _WithExtraState(torch.nn.Module):
    def get_extra_state(self) -> int:
        return 3


_REFUSED: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "a dict": dict,
    "a part alone": lambda: _Views(part=_part(0, 6)),
    "parts that touch": lambda: _Views(a=_part(0, 6), b=_part(6, 12)),
    "parts that overlap": lambda: _Views(a=_part(0, 7), b=_part(6, 12)),
    "parts within a part": lambda: _Views(a=_part(2, 8), b=_part(3, 4), c=_part(5, 6)),
    "an empty part": lambda: _Views(
        whole=_WHOLE, none=_part(3, 3), half=_part(0, 6), c=_part(8, 9)
    ),
    "on meta": lambda: torch.nn.Linear(2, 2, device="meta"),
}


@pytest.mark.parametrize("what", _REFUSED)
def test_inputs_that_safetensors_refuses_are_refused(what: str, pair: tuple[Side, Side]) -> None:
    theirs, ours = both(pair, lambda side: side.drop_in.save_model(_REFUSED[what](), side.path))
    assert isinstance(theirs, Refused)
    assert isinstance(ours, Refused)
    assert isinstance(ours.error, kind(theirs.error)), repr(ours.error)
    assert not list(pair[1].folder.iterdir())


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize(
    ("make", "theirs", "ours"),
    [
        # Inputs that safetensors does not check and fails on.
        (_WithExtraState, AttributeError, ValueError),
        (lambda: _Views(a=lambda storage: storage.to_sparse()), RuntimeError, ValueError),
        (
            lambda: _Views(a=lambda storage: storage.to(torch.complex128)),
            KeyError,
            fastio.DtypeError,
        ),
    ],
)
def test_errors_that_differ_from_those_of_safetensors(
    make: Any, theirs: Any, ours: Any, pair: tuple[Side, Side]
) -> None:
    answers = both(pair, lambda side: side.drop_in.save_model(make(), side.path))
    for answer, expected in zip(answers, (theirs, ours), strict=True):
        assert isinstance(answer.error, expected)


def test_a_storage_and_its_transpose_are_one_group(tmp_path: Path) -> None:
    """safetensors fails on it, by accident."""
    views = {"a": lambda storage: storage.reshape(3, 4).T, "b": _WHOLE}
    fastio.torch.save_model(_Views(**views), tmp_path / "file")
    assert metadata_seen_by_safetensors(tmp_path / "file")[0] == {"b": "a", "format": "pt"}
    saved = safetensors.torch.load_file(tmp_path / "file")["a"]
    assert torch.equal(saved, torch.arange(12.0).reshape(3, 4).T)


def test_its_arguments_are_those_of_safetensors() -> None:
    theirs, ours = (
        inspect.signature(library.save_model).parameters
        for library in (safetensors.torch, fastio.torch)
    )
    assert [(one.name, one.kind, one.default) for one in ours.values()] == [
        (one.name, one.kind, one.default) for one in theirs.values()
    ]
