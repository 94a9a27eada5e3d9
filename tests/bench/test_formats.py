"""The suite of formats: equal bytes are demanded, and each way stands beside the right ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.suites import formats


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "TENSORS", 2)
    monkeypatch.setattr(formats, "SHAPE", (64, 64))
    monkeypatch.setattr(formats, "NBYTES", 1)
    some = ("safetensors", "npz", "hdf5-gzip")
    monkeypatch.setattr(formats, "SAVES", {name: formats.SAVES[name] for name in some})
    libraries = {name: formats.LIBRARIES[name] for name in some[1:]}
    monkeypatch.setattr(formats, "LIBRARIES", libraries)


@pytest.mark.usefixtures("_small")
def test_each_way_is_measured_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        formats.SAVES, "hdf5-gzip", formats._save_hdf5(chunks=(16, 16), compression="gzip")
    )
    found = formats.measure(formats.make(tmp_path), 1)
    document: dict[str, Any] = formats.document_of(found, {})
    for state in ("cold", "warm"):
        rows = document["states"][state]
        assert rows.keys() == formats.ways().keys()
        assert "beside_safetensors" in rows["npz"]
        assert "beside_its_library" in rows["hdf5-gzip"]
        assert rows["safetensors"].keys() == {"seconds", "cpu_s"}


@pytest.mark.usefixtures("_small")
def test_other_bytes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = "import numpy as np\ntensors = {n: a + 1 for n, a in np.load(path).items()}"
    monkeypatch.setattr(
        formats, "SAVES", {name: formats.SAVES[name] for name in ("safetensors", "npz")}
    )
    monkeypatch.setattr(formats, "LIBRARIES", {"npz": wrong})
    with pytest.raises(RuntimeError, match="other bytes"):
        formats.measure(formats.make(tmp_path), 1)
