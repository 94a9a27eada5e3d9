"""The folders of the project, of its results, and of measured files."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench/results"
# Models and saves of a measurement. Git ignores it.
FILES = ROOT / ".cache/bench"
