"""The progress bar shows bytes, speed and remaining time on every output."""

import builtins
import io
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rich.console
import safetensors.numpy

import fastio
import testbed
from fastio.display import progress
from fastio.display.progress import progress_bar

_TENSORS = {f"t{i}": np.full(400_000, i, np.uint8) for i in range(8)}
_DONE = "3.2/3.2 MB"
_LAST = re.compile(
    r"(?P<done>[\d.]+)/(?P<all>[\d.]+) (?P<unit>\w+) +(?P<speed>.*?) +\d+:\d\d:\d\d\s*$"
)


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    safetensors.numpy.save_file(_TENSORS, tmp_path / "plain")
    fastio.save(_TENSORS, tmp_path / "sealed")
    return {"plain": tmp_path / "plain", "sealed": tmp_path / "sealed"}


def _store(folder: Path) -> fastio.Store:
    store = fastio.Store.create([folder / "a", folder / "b"], shard_bytes=1_000_000)
    store.save(_TENSORS)
    return store


def _into() -> dict[str, Any]:
    return {name: np.empty_like(array) for name, array in _TENSORS.items()}


def _calls(files: dict[str, Path], folder: Path) -> dict[str, Callable[[], object]]:
    bypass = fastio.Options(cache="bypass")
    copied = fastio.Options(mapping="never")
    plain, sealed = files["plain"], files["sealed"]
    return {
        "cold": lambda: fastio.load(sealed, progress=True, options=bypass),
        "copied": lambda: fastio.load(sealed, progress=True, options=copied),
        "mapped": lambda: fastio.load(sealed, progress=True),
        "mapped, not sealed": lambda: fastio.load(plain, progress=True),
        "load_into": lambda: fastio.load_into(plain, _into(), progress=True),
        "save": lambda: fastio.save(_TENSORS, folder / "new", progress=True),
        "save of shards": lambda: fastio.save(
            _TENSORS, folder / "new", shard_bytes=1_000_000, progress=True
        ),
    }


@pytest.mark.parametrize(
    "way", ["cold", "copied", "mapped", "mapped, not sealed", "load_into", "save", "save of shards"]
)
def test_a_log_gets_one_line_with_bytes_speed_and_time(
    way: str, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with testbed.kept_warm(files["plain"]), testbed.kept_warm(files["sealed"]):
        _calls(files, tmp_path)[way]()
    out, shown = capsys.readouterr()
    assert out == ""
    (line,) = shown.splitlines()
    assert "\x1b" not in shown
    found = _LAST.search(line)
    assert found is not None, line
    assert f"{found['done']}/{found['all']} {found['unit']}" == _DONE
    assert re.fullmatch(r"[\d.]+ [kMG]?B/s", found["speed"]), line


def test_stores_say_how_far_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with _store(tmp_path) as store:
        for call in (
            lambda: store.load(progress=True),
            lambda: store.load_into(_into(), progress=True),
        ):
            call()
            assert _DONE in capsys.readouterr().err
        store.save({name: array + 1 for name, array in _TENSORS.items()}, progress=True)
        assert "6.4/6.4 MB" in capsys.readouterr().err  # on both roots
        store.save({name: array + 1 for name, array in _TENSORS.items()}, progress=True)
        assert _DONE in capsys.readouterr().err  # nothing is written


def test_no_tensors_and_no_bytes_are_no_question(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, tensors in enumerate(({}, {"empty": np.empty((0, 3))})):
        path = tmp_path / f"model{number}"
        fastio.save(tensors, path, progress=True)
        fastio.load(path, progress=True)
        fastio.load_into(path, {name: np.empty((0, 3)) for name in tensors}, progress=True)
        shown = capsys.readouterr().err
        assert len(shown.splitlines()) == 3
        assert shown.count("0/0 bytes") == 3
        assert "?" not in shown


def _bar(monkeypatch: pytest.MonkeyPatch, steps: list[tuple[int, int]], nbytes: int) -> str:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm-256color")
    with progress_bar("folder/model", nbytes, shown=True) as advance:
        assert advance is not None
        for done, total in steps:
            advance(done, total)
    return terminal.getvalue()


def test_a_terminal_gets_a_bar_with_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = _bar(monkeypatch, [(0, 100_000_000), (50_000_000, 100_000_000)], 100_000_000)
    assert "\x1b[" in shown  # it is drawn again and again
    assert "━" in shown
    assert "-:--:--" in shown  # before anything is known
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown).strip().splitlines()[-1]
    assert "100.0/100.0 MB" in plain
    assert re.search(r"B/s +0:00:00", plain)


def test_a_total_of_zero_is_replaced_by_the_known_size(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = _bar(monkeypatch, [(0, 0)], 7_000_000)
    assert "7.0/7.0 MB" in shown
    assert "0/0" not in shown


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel of Jupyter, as rich recognises one."""
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setattr(builtins, "get_ipython", lambda: shell, raising=False)
    assert rich.console.Console().is_jupyter


@pytest.mark.usefixtures("notebook")
def test_a_notebook_without_widgets_gets_text_and_no_warning(
    files: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    fastio.load(files["sealed"], progress=True)  # a warning would be an error here
    out, err = capsys.readouterr()
    assert err == ""  # a notebook shows it as an error
    assert "\x1b" not in out
    assert _DONE in out
    assert len(out.splitlines()) <= 2


@pytest.mark.usefixtures("notebook")
def test_the_text_of_a_notebook_is_rewritten_in_its_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    monkeypatch.setattr(progress, "_REWRITTEN_EVERY_S", -1)
    with progress_bar("model", 100, shown=True) as advance:
        assert advance is not None
        for done in range(0, 100, 10):
            advance(done, 100)
    out, err = capsys.readouterr()
    assert err == ""
    assert out.count("\r") >= 10
    assert out.count("\n") == 1
    assert "50/100 bytes" in out
    assert "100/100 bytes" in out.rpartition("\r")[2]


@pytest.mark.usefixtures("notebook")
def test_a_notebook_with_widgets_gets_a_live_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: list[Any] = []

    class Output:
        def __enter__(self) -> None: ...
        def __exit__(self, *_: object) -> None: ...
        def clear_output(self, wait: bool = False) -> None: ...

    widgets = types.ModuleType("ipywidgets")
    widgets.Output = Output  # type: ignore[attr-defined]
    widgets.__spec__ = types.SimpleNamespace(name="ipywidgets")  # type: ignore[assignment]
    display = types.ModuleType("IPython.display")
    display.display = shown.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ipywidgets", widgets)
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    with progress_bar("model", 100, shown=True) as advance:
        assert advance is not None
        advance(50, 100)
    assert any(isinstance(each, Output) for each in shown)
    assert "\r" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["a\nb", "x" * 200, "m[bold]", "n\udcff"], ids=repr)
def test_any_name_stays_on_the_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(f"folder/{name}", 100, shown=True) as advance:
        assert advance is not None
        advance(100, 100)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable()
    assert "100/100 bytes" in line


def test_a_process_without_standard_error_loads(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert len(fastio.load(files["sealed"], progress=True)) == len(_TENSORS)
