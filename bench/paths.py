"""Where the project, its results and the files of measurements are."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench/results"
# Models and saves of a measurement. Git ignores it.
FILES = ROOT / ".cache/bench"
