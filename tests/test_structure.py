"""The house stays as it is drawn: what is public, who may use whom, how long a file may get."""

import ast
import builtins
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastio
from testbed import run_python

_ROOT = Path(__file__).parent.parent
_CSRC = _ROOT / "csrc"
_PACKAGE = _ROOT / "python" / "fastio"

# Lowest first. A unit is a header and its stem_*.cc.
_UNITS = (
    "process",
    "sanitizers",
    "error",
    "file",
    "memory",
    "device",
    "pinned",
    "plan",
    "answers",
    "dispatch",
    "checksum",
    "engine",
    "placement",
    "lanes",
    "active_time",
    "loader",
    "mapped",
    "sources",
    "saver",
    "bindings",
)
# Lowest first; modules of one line do not know each other.
_LAYERS = (
    ("shown", "notebook", "matches", "anchored"),
    ("fastio_error", "collector", "host_memory", "descriptors", "threads"),
    ("errors",),
    ("missing", "absent"),
    ("paths",),
    ("events", "shortage"),
    ("uring.queue",),
    ("uring.ring",),
    ("uring",),
    ("sizes", "switches", "variables"),
    ("options",),
    ("defaults",),
    ("catalog",),
    ("checksums",),
    ("formats",),
    ("formats.strict_json", "formats.known"),
    ("formats.columns",),
    ("formats.safetensors", "formats.headers"),
    ("formats.index",),
    ("formats.huggingface",),
    ("filesystem",),
    ("filesystem.refusals", "filesystem.flocks"),
    ("filesystem.durability", "filesystem.leftovers", "filesystem.inheritance", "filesystem.trial"),
    ("filesystem.new_file",),
    ("replacement", "target"),
    ("in_place", "folders"),
    ("replica", "chunks"),
    ("located",),
    ("verification",),
    ("seal",),
    ("report", "progress", "findings"),
    ("tally",),
    ("frameworks",),
    ("frameworks.torch_dtypes", "frameworks.torch_modes"),
    ("frameworks.torch_devices",),
    ("frameworks.numpy", "frameworks.torch", "frameworks.tied"),
    ("frameworks.through_numpy",),
    ("frameworks.jax", "frameworks.tensorflow", "frameworks.mlx", "frameworks.paddle"),
    ("handed", "targets"),
    ("fetch", "selection"),
    ("survey",),
    ("slicing",),
    ("agreement",),
    ("joined", "parts", "small"),
    ("devices",),
    ("device_stream",),
    ("loading",),
    ("ahead",),
    ("access",),
    ("saving",),
    ("saving.bell",),
    (
        "saving.sources",
        "saving.durability",
        "saving.pace",
        "saving.turns",
        "saving.uninterrupted",
    ),
    ("saving.background", "saving.specs", "saving.writing", "saving.folder_lock"),
    ("saving.folder",),
    ("saving.job",),
    ("saving.serialized",),
    ("save",),
    ("store",),
    ("store.documents", "store.placement", "store.partition"),
    ("store.arguments",),
    ("store.manifest", "store.history"),
    ("store.lineage", "store.answering", "store.together"),
    ("store.files",),
    ("store.layout",),
    ("store.root_files",),
    ("store.root",),
    (
        "store.begun",
        "store.locks",
        "store.wholeness",
        "store.places",
        "store.divergence",
    ),
    ("store.reached", "store.holding", "store.taken"),
    ("store.members",),
    ("store.pinned",),
    ("store.commit",),
    ("store.sessions",),
    ("store.repair", "store.collect", "store.creation"),
    ("store.reading", "store.shards", "store.small"),
    ("store.copies", "store.mend", "store.replacing"),
    ("store.saving", "store.status"),
    ("whole",),
    ("locate",),
    ("view",),
    ("naming",),
    ("reader", "fill", "in_memory"),
    ("store.loads",),
    ("store.writes",),
    ("store.verify",),
    ("store.keeping",),
    ("store.store",),
    ("verify",),
    ("safe_open",),
    ("torch_names",),
    ("numpy", "torch", "array_files"),
    ("flax", "tensorflow", "mlx", "paddle"),
    ("api",),
    ("__init__",),
)
_LINES_MAX = 400
_NAMES_THAT_SAY_NOTHING = re.compile(r"util|helper|common|manager|misc", re.IGNORECASE)


def _sources(folder: Path, *suffixes: str) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in suffixes)


def _unit(file: str) -> str:
    stem = Path(file).stem
    return next((unit for unit in _UNITS if stem == unit or stem.startswith(unit + "_")), stem)


def _module(path: Path) -> str:
    parts = path.relative_to(_PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def _layer(module: str) -> int:
    for layer, modules in enumerate(_LAYERS):
        if module in modules:
            return layer
    raise AssertionError(f"fastio.{module} has no place yet in _LAYERS")


def _modules_imported(path: Path) -> Iterator[str]:
    """Modules of fastio that a file of it imports anywhere, also inside functions."""
    modules = {_module(other) for other in _sources(_PACKAGE, ".py", ".pyi")}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            # `from fastio.formats import safetensors` names a module, or else something in one.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] != "fastio":
                continue
            inner = name.partition(".")[2]
            while inner and inner not in modules:
                inner = inner.rpartition(".")[0]
            yield inner or "__init__"


def test_the_public_names_are_exactly_these() -> None:
    assert sorted(fastio.__all__) == [
        "ChecksumError",
        "ConflictError",
        "DeviceError",
        "DtypeError",
        "EngineReport",
        "EngineStatus",
        "Event",
        "FastioError",
        "FormatError",
        "LaneTimes",
        "LoadEvent",
        "LoadHandle",
        "MemoryLimitError",
        "Options",
        "PySafeSlice",
        "ReadError",
        "Reader",
        "ReplicaError",
        "Report",
        "SafetensorError",
        "SaveHandle",
        "SelectionError",
        "StaleError",
        "Store",
        "TensorInfo",
        "TensorMeta",
        "TensorNotFoundError",
        "TensorSpec",
        "TensorView",
        "UsageError",
        "Verification",
        "WriteError",
        "__version__",
        "deserialize",
        "engine_report",
        "load",
        "load_into",
        "on_event",
        "safe_open",
        "save",
        "seal",
        "serialize",
        "serialize_file",
        "trim",
        "verify",
    ]
    assert all(hasattr(fastio, name) for name in dir(fastio))


@pytest.mark.parametrize("module", ["", ".numpy", ".torch", ".uring", ".store"])
def test_dir_lists_what_is_public_and_nothing_else(module: str) -> None:
    found = importlib.import_module(f"fastio{module}")
    besides = {"open", "numpy", "torch", "uring"} if not module else set()
    assert dir(found) == sorted({*found.__all__, *besides})
    assert all(getattr(found, name) is not None for name in dir(found))


def test_dir_does_not_list_what_is_not_installed() -> None:
    code = """
import sys
sys.modules["torch"] = sys.modules["fastio._uring"] = None
import fastio
print(*dir(fastio))
"""
    listed = run_python(code).check().stdout.split()
    assert "numpy" in listed
    assert not {"torch", "uring"} & set(listed)


def test_importing_all_names_leaves_pythons_own_as_they_are() -> None:
    names: dict[str, object] = {}
    exec("from fastio import *", names)
    assert set(names) - {"__builtins__"} == set(fastio.__all__)
    assert names.keys() & vars(builtins).keys() == set()


@pytest.mark.parametrize("path", _sources(_CSRC, ".h", ".cc"), ids=lambda path: path.name)
def test_a_unit_includes_only_units_below_it(path: Path) -> None:
    unit = _unit(path.name)
    assert unit in _UNITS, f"{path.name} is of no unit: give {unit!r} its place in _UNITS"
    included = re.findall(r'^#include "(.+)"', path.read_text(encoding="utf-8"), re.MULTILINE)
    above = [name for name in included if _UNITS.index(_unit(name)) > _UNITS.index(unit)]
    assert above == []


@pytest.mark.parametrize("path", _sources(_PACKAGE, ".py"), ids=_module)
def test_a_module_imports_only_modules_below_it(path: Path) -> None:
    own = _module(path)
    # A package's own __init__ stands below its modules: they cannot be imported without it.
    above = [
        name
        for name in _modules_imported(path)
        if name not in ("_native", "_uring", own) and _layer(name) >= _layer(own)
    ]
    assert above == []


@pytest.mark.parametrize(
    "path",
    _sources(_CSRC, ".h", ".cc", ".py") + _sources(_ROOT / "python", ".py", ".pyi"),
    ids=lambda path: str(path.relative_to(_ROOT)),
)
def test_a_file_fits_in_the_head(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= _LINES_MAX


@pytest.mark.parametrize("folder", ["csrc", "python", "tests", "bench"])
def test_names_say_something(folder: str) -> None:
    named = (path for path in (_ROOT / folder).rglob("*") if "__pycache__" not in path.parts)
    assert [path for path in named if _NAMES_THAT_SAY_NOTHING.search(path.name)] == []


def test_importing_fastio_imports_no_framework_and_nothing_heavy() -> None:
    code = """
import sys
import ml_dtypes, msgspec, numpy  # what it stands on
before = set(sys.modules)
import fastio
print(*sorted(set(sys.modules) - before))
"""
    added = set(run_python(code).check().stdout.split())
    print(f"import fastio adds {len(added)} modules: {' '.join(sorted(added))}")
    heavy = {
        "cffi",
        "_cffi_backend",
        "fastio.uring",
        "torch",
        "jax",
        "tensorflow",
        "safetensors",
        "rich",
        "asyncio",
        "multiprocessing",
    }
    heavy |= {"importlib.metadata", "http.client", "concurrent.futures"}
    assert added & heavy == set()
