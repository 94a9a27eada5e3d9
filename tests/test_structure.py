"""The structure of the code is as drawn: public names, permitted imports, lengths of files."""

import ast
import builtins
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastio
from testbed import run_python

_ROOT = Path(__file__).parent.parent
_CSRC = _ROOT / "csrc"
_PACKAGE = _ROOT / "python" / "fastio"

_LINES_MAX = 400
_MODULES_AT_THE_TOP_MAX = 16
_METHODS_MAX = 20
_ROOMS_MAX = 24
_ARROWS_MAX = 100
_NAMES_THAT_SAY_NOTHING = re.compile(r"util|helper|common|manager|misc", re.IGNORECASE)


def _sources(folder: Path, *suffixes: str) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in suffixes)


def test_the_public_names_are_exactly_these() -> None:
    assert sorted(fastio.__all__) == [
        "ChecksumError",
        "ConflictError",
        "Decoding",
        "DeviceError",
        "DtypeError",
        "EngineReport",
        "EngineStatus",
        "Event",
        "FastioError",
        "File",
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
        "convert",
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
        "start_load",
        "start_save",
        "trim",
        "verify",
    ]
    assert all(hasattr(fastio, name) for name in dir(fastio))


@pytest.mark.parametrize("module", ["", ".numpy", ".torch", ".uring", ".store"])
def test_dir_lists_exactly_the_public_names(module: str) -> None:
    found = importlib.import_module(f"fastio{module}")
    besides = {"open", "numpy", "torch", "uring"} if not module else set()
    assert dir(found) == sorted({*found.__all__, *besides})
    assert all(getattr(found, name) is not None for name in dir(found))


def test_dir_does_not_list_frameworks_that_are_not_installed() -> None:
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


def test_the_tree_in_architecture_is_that_of_the_files() -> None:
    """`.ci/tree` writes it; it also refuses circles among the units of csrc/."""
    checked = subprocess.run(
        [sys.executable, _ROOT / ".ci" / "tree", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize(
    "path",
    _sources(_CSRC, ".h", ".cc", ".py") + _sources(_ROOT / "python", ".py", ".pyi"),
    ids=lambda path: str(path.relative_to(_ROOT)),
)
def test_a_file_fits_in_the_head(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= _LINES_MAX


def _methods(node: ast.ClassDef) -> list[str]:
    """The methods of a class; a property is an attribute."""
    return [
        each.name
        for each in node.body
        if isinstance(each, ast.FunctionDef)
        and not any(isinstance(d, ast.Name) and d.id == "property" for d in each.decorator_list)
    ]


def test_a_class_has_few_methods() -> None:
    large = [
        f"{path.relative_to(_PACKAGE)}: {node.name}"
        for path in _sources(_PACKAGE, ".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and len(_methods(node)) > _METHODS_MAX
    ]
    assert large == []


def test_the_top_of_the_package_is_read_at_a_glance() -> None:
    assert len(list(_PACKAGE.glob("*.py"))) <= _MODULES_AT_THE_TOP_MAX


def _imports(path: Path) -> Iterator[tuple[str, ...]]:
    """The modules of fastio that a module imports, each by its parts behind `fastio`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        named = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        named += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in named:
            package, *parts = name.split(".")
            if package == "fastio":
                yield tuple(parts)


def _arrows() -> set[tuple[str, str]]:
    """Which room imports from which; a room is a folder or a module at the top."""
    modules = (path.relative_to(_PACKAGE) for path in _PACKAGE.rglob("*.py"))
    return {
        (module.parts[0].removesuffix(".py"), parts[0])
        for module in modules
        if module != Path("__init__.py")
        for parts in _imports(_PACKAGE / module)
        if parts and parts[0] != module.parts[0].removesuffix(".py")
    }


def test_rooms_are_few_and_so_are_the_arrows_between_them() -> None:
    arrows = _arrows()
    assert ("api", "store") in arrows
    assert len(arrows) <= _ARROWS_MAX
    rooms = {room for arrow in arrows for room in arrow if not room.startswith("_")}
    assert len(rooms) <= _ROOMS_MAX


def test_no_room_imports_the_package_which_imports_all_rooms() -> None:
    of_package = [path for path in _sources(_PACKAGE, ".py") if () in _imports(path)]
    assert of_package == []


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
