"""The requirements of a tool, checked before its use: so a skip can state its reason."""

import os
import shutil
import subprocess

import pytest


def require_root(what: str) -> None:
    """Skip the test if it does not run as root.

    Parameters
    ----------
    what
        The use of root, for the skip's reason.

    Raises
    ------
    pytest.skip.Exception
        If the process is not root's.
    """
    if os.geteuid() != 0:
        pytest.skip(f"needs root: {what}")


def require_gpu() -> None:
    """Skip the test if torch has no CUDA device.

    Raises
    ------
    pytest.skip.Exception
        With the reason that torch gives.
    """
    torch = pytest.importorskip("torch", reason="needs a GPU: torch is not installed")
    if torch.version.cuda is None:
        pytest.skip(f"needs a GPU: torch {torch.__version__} is built without CUDA")
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU: torch finds no CUDA device")


def require_tools(*names: str) -> None:
    """Skip the test if a program is missing.

    Raises
    ------
    pytest.skip.Exception
        If one of `names` is not on the search path.
    """
    for name in names:
        if shutil.which(name) is None:
            pytest.skip(f"needs the program {name}")


def run_tool(*argv: str) -> str:
    """Run a program of the system and return its output.

    Raises
    ------
    RuntimeError
        If it fails, with its output.
    """
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}: exit {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def run_tool_or_skip(*argv: str) -> str:
    """Run a program that a container may refuse to run even for root.

    Raises
    ------
    pytest.skip.Exception
        If it fails, with its output as the reason.
    """
    try:
        return run_tool(*argv)
    except RuntimeError as error:
        pytest.skip(f"this machine refuses: {error}")
