"""load_into fills memory of any layout with the bytes of each tensor, or fails as a whole."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastio
import testbed
from samples import (
    CHUNK_BYTES,
    MODEL,
    bytes_of,
    data_start,
    expected_bytes,
    flip,
    same_bytes,
    write,
    write_even,
    write_model,
)

Faults = Callable[..., None]


def _options(engine: Any, cache: Any, **more: Any) -> fastio.Options:
    return fastio.Options(engine=engine, cache=cache, block_bytes=CHUNK_BYTES, **more)


def _blank(path: Path, framework: Any = "numpy") -> dict[str, Any]:
    make: Any = np.zeros_like if framework == "numpy" else torch.zeros_like
    return {name: make(tensor) for name, tensor in fastio.load(path, framework=framework).items()}


@pytest.mark.parametrize("temperature", ["cold", "warm"])
@pytest.mark.parametrize("framework", ["numpy", "torch"])
@pytest.mark.parametrize("is_sealed", [True, False], ids=["sealed", "unsealed"])
def test_tensors_that_exist_are_filled(
    tmp_path: Path, engine: Any, cache: Any, framework: Any, temperature: str, is_sealed: bool
) -> None:
    path = write_model(tmp_path / "model")
    if is_sealed:
        fastio.seal(path)
    targets, expected = _blank(path, framework), expected_bytes(path)
    if temperature == "cold":
        testbed.evict(path)
    report = fastio.Report()
    fastio.load_into(path, targets, options=_options(engine, cache), report=report)
    assert same_bytes(targets, expected)
    assert (report.tensors, report.files, report.engine) == (len(MODEL), 1, engine)
    assert report.nbytes == sum(map(len, expected.values()))
    assert report.chunks_verified == (12 if is_sealed else 0)
    assert report.unverified == (() if is_sealed else (str(path),))


_SHAPE = (6, 5, 4)
_PATTERN = 0xA5


@st.composite
def _layouts(draw: st.DrawFn) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Memory of one pattern, and a view of it of `_SHAPE`: gaps, turns, transposes, any offset."""
    steps = [draw(st.sampled_from([1, 1, 2, 3])) for _ in _SHAPE]
    turns = [draw(st.booleans()) for _ in _SHAPE]
    order = draw(st.permutations(range(3)))
    offset = draw(st.integers(0, 9))
    wide = tuple(_SHAPE[axis] * steps[axis] for axis in order)
    memory = np.full(4 * int(np.prod(wide)) + offset, _PATTERN, np.uint8)
    view: npt.NDArray[Any] = (
        memory[offset:].view(np.uint32).reshape(wide).transpose(np.argsort(order))
    )
    for axis, (step, turned) in enumerate(zip(steps, turns, strict=True)):
        cut = [slice(None)] * 3
        cut[axis] = slice(None, None, -step if turned else step)
        view = view[tuple(cut)]
    return memory, view


@pytest.fixture(scope="module")
def cube(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write(
        tmp_path_factory.mktemp("cube") / "model", {"a": ("U8", (13,)), "t": ("U32", _SHAPE)}
    )
    return fastio.seal(path)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layout=_layouts())
def test_any_layout_is_filled_and_nothing_beside_it(
    cube: Path, engine: Any, layout: tuple[npt.NDArray[Any], npt.NDArray[Any]]
) -> None:
    memory, view = layout
    values = np.frombuffer(expected_bytes(cube)["t"], np.uint32).reshape(_SHAPE)
    wanted = memory.copy()
    shift = view.__array_interface__["data"][0] - memory.ctypes.data
    np.ndarray(_SHAPE, np.uint32, wanted, shift, view.strides)[...] = values
    options = fastio.Options(engine=engine, cache="keep")
    fastio.load_into(cube, {"t": view}, strict=False, options=options)
    assert np.array_equal(memory, wanted)


# Larger than blocks, so that a layout is filled piece by piece.
_WIDE = (1500, 1100)


def _wide(kind: str) -> Any:
    rows, columns = _WIDE
    if kind == "fortran":
        return np.zeros(_WIDE, np.uint16, order="F")
    if kind == "turned":
        return np.zeros(_WIDE, np.uint16)[::-1, ::-1]
    if kind == "with gaps":
        return np.zeros((rows, columns + 7), np.uint16)[:, 3:-4]
    if kind == "every other one":
        return np.zeros((rows, 2 * columns), np.uint16)[:, ::2]
    if kind == "misaligned":
        return np.zeros(rows * columns * 2 + 1, np.uint8)[1:].view(np.uint16).reshape(_WIDE)
    if kind == "torch, transposed":
        return torch.zeros((columns, rows), dtype=torch.uint16).t()
    if kind == "torch, a parameter":
        return torch.nn.Parameter(torch.zeros(_WIDE, dtype=torch.uint16), requires_grad=False)
    assert kind == "torch, with gaps"
    return torch.zeros((rows, columns, 3), dtype=torch.uint16)[:, :, 1]


@pytest.mark.parametrize(
    "kind",
    [
        *("fortran", "turned", "with gaps", "every other one", "misaligned"),
        *("torch, transposed", "torch, a parameter", "torch, with gaps"),
    ],
)
def test_a_layout_larger_than_a_block_is_filled(
    tmp_path: Path, engine: Any, cache: Any, kind: str
) -> None:
    path = fastio.seal(write(tmp_path / "model", {"a": ("U8", (99,)), "t": ("U16", _WIDE)}))
    target = _wide(kind)
    fastio.load_into(path, {"t": target}, strict=False, options=_options(engine, cache))
    values = target.numpy() if isinstance(target, torch.Tensor) else target
    assert values.tobytes() == expected_bytes(path)["t"]


def test_scalars_empty_tensors_and_every_dtype_are_filled(tmp_path: Path, engine: Any) -> None:
    spec = {
        "scalar": ("F64", ()),
        "empty": ("F32", (0, 3)),
        "bf16": ("BF16", (3, 5)),
        "f8": ("F8_E4M3", (7,)),
        "c64": ("C64", (2, 2)),
        "f4": ("F4", (3, 8)),
        "bool": ("BOOL", (9,)),
    }
    path = write(tmp_path / "model", spec, start_modulo_8=5)
    targets: dict[str, Any] = {
        "scalar": np.zeros((), np.float64),
        "empty": np.zeros((0, 3), np.float32),
        "bf16": torch.zeros((5, 3), dtype=torch.bfloat16).t(),
        "f8": np.zeros(7, ml_dtypes.float8_e4m3fn),
        "c64": torch.zeros((2, 2), dtype=torch.complex64),
        "f4": np.zeros((3, 4), np.uint8),
        "bool": np.zeros(9, bool),
    }
    fastio.load_into(path, targets, options=fastio.Options(engine=engine))
    targets["bf16"] = targets["bf16"].contiguous()
    assert same_bytes(targets, expected_bytes(path))


def test_interleaved_targets_that_share_no_byte_are_filled(tmp_path: Path) -> None:
    path = write(tmp_path / "model", {f"t{i}": ("U32", (50, 3)) for i in range(4)})
    together = np.zeros((50, 12), np.uint32)
    targets = {
        "t0": together[:, 0:3],
        "t1": together[:, 3:6][::-1],
        "t2": together[:, 6::2],
        "t3": together[:, 7::2],
    }
    fastio.load_into(path, targets)
    assert same_bytes(targets, expected_bytes(path))


def test_a_part_of_the_names_is_filled_on_request(tmp_path: Path, engine: Any) -> None:
    path = fastio.seal(write_even(tmp_path / "model", 8, CHUNK_BYTES))
    targets = {"t6": np.zeros(CHUNK_BYTES, np.uint8), "t2": np.zeros(CHUNK_BYTES, np.uint8)}
    report = fastio.Report()
    options = _options(engine, "bypass")
    fastio.load_into(path, targets, strict=False, options=options, report=report)
    assert bytes_of(targets["t2"]) == expected_bytes(path)["t2"]
    assert bytes_of(targets["t6"]) == expected_bytes(path)["t6"]
    assert (report.tensors, report.bytes_read) == (2, 2 * CHUNK_BYTES)
    fastio.load_into(path, {}, strict=False)


# ---- midway ----


def _aligned(nbytes: int, modulo: int) -> npt.NDArray[np.uint8]:
    """Memory whose address is `modulo` modulo 4096, full of a pattern."""
    memory = np.full(nbytes + 8192, _PATTERN, np.uint8)
    skipped = (modulo - memory.ctypes.data) % 4096
    return memory[skipped : skipped + nbytes]


@pytest.fixture(params=["straight", "staged"])
def targets(request: pytest.FixtureRequest) -> dict[str, npt.NDArray[np.uint8]]:
    """Memory that takes direct reads, or gets copies of blocks."""
    modulo = 0 if request.param == "straight" else 1
    return {f"t{i}": _aligned(2 * CHUNK_BYTES, modulo) for i in range(6)}


@pytest.mark.parametrize("kind", ["damage", "error", "zero"])
def test_a_fill_that_fails_midway_leaves_verified_bytes_only(
    tmp_path: Path,
    engine: Any,
    cache: Any,
    targets: dict[str, npt.NDArray[np.uint8]],
    kind: str,
    faults: Faults,
) -> None:
    path = fastio.seal(write_even(tmp_path / "model", 6, 2 * CHUNK_BYTES))
    expected = expected_bytes(path)
    if kind == "damage":
        flip(path, data_start(path) + 7 * CHUNK_BYTES + 5)  # the second chunk of t3
    elif kind == "error":
        faults((7, "error", errno.EIO))
    else:
        faults((7, "short", 8192), (8, "zero", 0))
    options = _options(engine, cache, lanes=1, queue_depth=1)
    with pytest.raises((fastio.ChecksumError, fastio.ReadError)) as raised:
        fastio.load_into(path, targets, options=options)
    error = raised.value
    assert isinstance(error, fastio.ChecksumError if kind == "damage" else fastio.ReadError)
    assert error.complete == ("t0", "t1", "t2")
    assert "complete: 't0', 't1', 't2'" in str(error)
    for name in error.complete:
        assert bytes_of(targets[name]) == expected[name]
    for name, target in targets.items():
        for at in range(0, 2 * CHUNK_BYTES, CHUNK_BYTES):
            chunk = target[at : at + CHUNK_BYTES].tobytes()
            untouched = {bytes([_PATTERN]) * CHUNK_BYTES, bytes(CHUNK_BYTES)}
            assert chunk in {expected[name][at : at + CHUNK_BYTES], *untouched}, (name, at)
    damaged = targets["t3"][CHUNK_BYTES:]
    assert damaged.tobytes() != expected["t3"][CHUNK_BYTES:]


def test_faults_that_can_be_survived_are(
    tmp_path: Path,
    engine: Any,
    cache: Any,
    targets: dict[str, npt.NDArray[np.uint8]],
    faults: Faults,
) -> None:
    path = fastio.seal(write_even(tmp_path / "model", 6, 2 * CHUNK_BYTES))
    kinds = [
        ("short", 70_001),
        ("error", errno.EINTR),
        ("reorder", 0),
        ("late", 5),
        ("error", errno.EAGAIN),
    ]
    faults(*((at, *kinds[at % len(kinds)]) for at in range(48)))
    fastio.load_into(path, targets, options=_options(engine, cache, lanes=3, queue_depth=4))
    assert same_bytes(targets, expected_bytes(path))
