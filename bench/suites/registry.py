"""The suites that are held to targets, by name."""

from __future__ import annotations

from bench.suites.load.cases import SUITE as LOAD
from bench.suites.load_gpu.cases import SUITE as LOAD_GPU
from bench.suites.reader.cases import SUITE as READER
from bench.suites.save.cases import SUITE as SAVE
from bench.suites.store.cases import SUITE as STORE

SUITES = {suite.name: suite for suite in (LOAD, READER, SAVE, STORE, LOAD_GPU)}
