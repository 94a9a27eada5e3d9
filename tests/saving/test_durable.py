"""A save waits for the disk by its argument, else by FASTIO_DURABLE, else always."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastio
import fastio.numpy
from testbed import run_python

_CALLS = {
    "save": "fastio.save(arrays, path)",
    "shards": "fastio.save(arrays, path, shard_bytes=10)",
    "background": "fastio.start_save(arrays, path).result()",
    "numpy.save_file": "fastio.numpy.save_file(arrays, path)",
    "serialize_file": (
        "fastio.serialize_file({'w': fastio.TensorSpec(dtype='float32', shape=[3], "
        "data_ptr=arrays['w'].ctypes.data, data_len=12)}, path)"
    ),
    "store": "fastio.Store.create([path], replicas=1).save(arrays)",
    "seal": "fastio.seal(fastio.save(arrays, path, checksums=False, durable=False))",
}
# A store's protocol and `seal` replacing a file are wrong without it.
_ALWAYS = ("store", "seal")
_NO_SYNC = "fsync,fdatasync:error=EIO"


def _called(call: str, path: Path, **env: str) -> str | None:
    """The error of a child that cannot sync."""
    code = f"""
import sys, numpy, fastio, fastio.numpy
arrays, path = {{"w": numpy.ones(3, numpy.float32)}}, sys.argv[1]
{call}
"""
    return run_python(code, path, env=env, inject=[_NO_SYNC]).exception


@pytest.mark.parametrize("call", _CALLS)
def test_the_variable_decides_whether_a_save_waits_for_the_disk(call: str, tmp_path: Path) -> None:
    assert _called(_CALLS[call], tmp_path / "default") == "fastio.errors.WriteError"
    assert _called(_CALLS[call], tmp_path / "on", FASTIO_DURABLE="1") == "fastio.errors.WriteError"
    without = _called(_CALLS[call], tmp_path / "off", FASTIO_DURABLE="0")
    assert without == ("fastio.errors.WriteError" if call in _ALWAYS else None)
    if call not in _ALWAYS:
        assert fastio.load(tmp_path / "off")["w"].tolist() == [1, 1, 1]


def test_the_argument_beats_the_variable(tmp_path: Path) -> None:
    call = "fastio.save(arrays, path, durable={})"
    assert _called(call.format(False), tmp_path / "a", FASTIO_DURABLE="1") is None
    met = _called(call.format(True), tmp_path / "b", FASTIO_DURABLE="0")
    assert met == "fastio.errors.WriteError"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *((text, True) for text in ("1", "true", "YES", " on ", "", "  ")),
        *((text, False) for text in ("0", "False", "no", "OFF\n")),
    ],
)
def test_the_variable_accepts_these_values(
    text: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastio.saving.durability import is_durable

    monkeypatch.setenv("FASTIO_DURABLE", text)
    assert is_durable() is expected
    assert is_durable(True) is True
    assert is_durable(False) is False


@pytest.mark.parametrize("text", ["2", "maybe", "-", "none"])
def test_another_value_is_refused_by_name(
    text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FASTIO_DURABLE", text)
    arrays: dict[str, Any] = {"w": np.ones(3)}
    calls = [
        lambda: fastio.save(arrays, tmp_path / "file"),
        lambda: fastio.numpy.save_file(arrays, tmp_path / "file"),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=f"FASTIO_DURABLE='{text}'"):
            call()
    assert list(tmp_path.iterdir()) == []
    fastio.save(arrays, tmp_path / "file", durable=False)
