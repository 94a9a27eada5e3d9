"""`python -m bench` lists every suite, runs the one that is named, and refuses unknown names."""

import importlib
import subprocess
import sys

import pytest

from bench import __main__ as entry
from bench.paths import ROOT
from bench.suites.registry import SUITES

COMMANDS = entry.SUITES | entry.REPORTS | entry.FILES


def bench(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run `python -m bench` as a user would."""
    command = (sys.executable, "-m", "bench", *arguments)
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_without_a_suite_each_one_is_listed_with_its_question():
    done = bench()
    assert (done.returncode, done.stderr) == (0, "")
    for name, module in COMMANDS.items():
        line = (importlib.import_module(module).__doc__ or "").partition("\n")[0]
        assert f"{name} {line}" in " ".join(done.stdout.split())


def test_every_suite_that_is_held_to_targets_can_be_run():
    assert set(SUITES) <= set(entry.SUITES)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_suite_explains_its_arguments(name: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        entry.main([name, "--help"])
    assert ended.value.code == 0
    assert f"usage: python -m bench {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "near"),
    [("laod", "load"), ("load_gpu", "load-gpu"), ("Save", "save"), ("gpu-fact", "gpu-facts")],
)
def test_an_unknown_suite_is_refused_with_the_names_that_resemble_it(name: str, near: str):
    done = bench(name)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"unknown suite {name!r}; did you mean {near}" in done.stderr


def test_a_name_that_resembles_none_is_answered_with_all(capsys: pytest.CaptureFixture[str]):
    assert entry.main(["zzz"]) == 2
    said = capsys.readouterr().err
    assert all(name in said for name in COMMANDS)
