"""Hosts that refuse io_uring, lock no memory, or hide the page cache: loads go on and report it."""

import contextlib
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import fastio
import testbed
from samples import chunk_count, expected_bytes, write_model

_ANOTHER_UID = 65534

# Loads argv[1] with the options in argv[2] and prints the report, and the bytes' hashes.
_LOAD = """
import hashlib, json, sys
import fastio
report = fastio.Report()
tensors = fastio.load(sys.argv[1], options=fastio.Options(**json.loads(sys.argv[2])), report=report)
host = fastio.engine_report()
print(json.dumps({
    "bytes": {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in tensors.items()},
    "engine": report.engine,
    "reason": report.engine_reason,
    "line": str(report),
    "cache": report.cache,
    "cache_reason": report.cache_reason,
    "direct": report.bytes_direct,
    "mapped": report.bytes_mapped,
    "verified": report.chunks_verified,
    "host": {name: [status.available, status.reason] for name, status in host.engines.items()},
    "chosen": host.chosen,
    "why": host.reason,
    "text": str(host),
}))
"""


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    path = fastio.seal(write_model(tmp_path / "model"))
    testbed.evict(path)
    return path


def _said(result: testbed.ChildResult) -> Any:
    return json.loads(result.check().stdout)


def _assert_whole(said: Any, path: Path) -> None:
    expected = {
        name: hashlib.sha256(data).hexdigest() for name, data in expected_bytes(path).items()
    }
    assert said["bytes"] == expected
    assert said["verified"] == chunk_count(path)


@pytest.mark.parametrize("refusal", ["EPERM", "ENOSYS"])
def test_if_io_uring_is_refused_pread_loads_and_reports_the_reason(
    sealed: Path, refusal: Any
) -> None:
    said = _said(testbed.run_python(_LOAD, sealed, "{}", seccomp=refusal))
    _assert_whole(said, sealed)
    assert said["engine"] == "pread"
    assert refusal in said["reason"]
    assert "io_uring" in said["reason"]
    assert said["reason"] in said["line"]
    available, reason = said["host"]["uring"]
    assert not available
    assert refusal in reason
    assert said["host"]["pread"][0]
    assert said["chosen"] == "pread"
    assert reason in said["why"]
    assert "uring: NO" in said["text"]


@pytest.mark.parametrize("refusal", ["EPERM", "ENOSYS"])
def test_io_uring_that_was_asked_for_and_is_refused_is_an_error(sealed: Path, refusal: Any) -> None:
    result = testbed.run_python(_LOAD, sealed, '{"engine": "uring"}', seccomp=refusal)
    assert result.exception == "fastio.errors.ReadError"
    assert result.message is not None
    assert "io_uring_setup" in result.message
    assert refusal in result.message


@pytest.mark.parametrize("refusal", ["EPERM", "ENOSYS"])
def test_pread_needs_no_io_uring(sealed: Path, refusal: Any) -> None:
    options = '{"engine": "pread"}'
    said = _said(testbed.run_python(_LOAD, sealed, options, seccomp=refusal))
    _assert_whole(said, sealed)
    assert (said["engine"], said["reason"]) == ("pread", "asked for")


def test_the_environment_chooses_the_engine(sealed: Path) -> None:
    said = _said(testbed.run_python(_LOAD, sealed, "{}", env={"FASTIO_ENGINE": "pread"}))
    _assert_whole(said, sealed)
    assert said["engine"] == "pread"
    testbed.evict(sealed)  # a mapping uses no engine
    refused = testbed.run_python(
        _LOAD, sealed, "{}", env={"FASTIO_ENGINE": "uring"}, seccomp="EPERM"
    )
    assert refused.exception == "fastio.errors.ReadError"
    misspelt = testbed.run_python(_LOAD, sealed, "{}", env={"FASTIO_ENGINE": "urign"})
    assert misspelt.exception == "ValueError"
    assert "FASTIO_ENGINE" in (misspelt.message or "")


def test_an_argument_beats_the_environment(sealed: Path) -> None:
    env = {"FASTIO_ENGINE": "uring", "FASTIO_CACHE": "keep"}
    options = '{"engine": "pread", "cache": "bypass"}'
    said = _said(testbed.run_python(_LOAD, sealed, options, env=env, seccomp="EPERM"))
    assert said["engine"] == "pread"
    assert said["direct"] > 0


def _needs_io_uring(said: Any) -> None:
    available, reason = said["host"]["uring"]
    if not available and ("EPERM" in reason or "ENOSYS" in reason):
        pytest.skip(f"no io_uring here: {reason}")


@pytest.mark.root
@pytest.mark.parametrize("huge_pages", ["on", "off"])
def test_64_kib_of_locked_memory_are_enough(sealed: Path, huge_pages: str) -> None:
    options = json.dumps({"huge_pages": huge_pages})
    said = _said(testbed.run_python(_LOAD, sealed, options, memlock=65536, uid=_ANOTHER_UID))
    _needs_io_uring(said)
    _assert_whole(said, sealed)
    # Reads into unregistered memory take no locked memory, and rings of the usual depth take
    # little. (The kernel frees it late: memory of this user's earlier processes may still count.)
    assert said["engine"] == "uring" or "RLIMIT_MEMLOCK is 65536" in said["reason"]


@pytest.mark.root
@pytest.mark.parametrize(("memlock", "depth"), [(65536, 4096), (0, 8)])
def test_if_memory_cannot_be_locked_pread_loads_and_reports_the_limit(
    sealed: Path, memlock: int, depth: int
) -> None:
    options = json.dumps({"queue_depth": depth, "lanes": 1})
    said = _said(testbed.run_python(_LOAD, sealed, options, memlock=memlock, uid=_ANOTHER_UID))
    _needs_io_uring(said)
    _assert_whole(said, sealed)
    if said["engine"] == "uring":
        pytest.skip("this kernel does not charge rings")
    assert said["engine"] == "pread"
    assert f"RLIMIT_MEMLOCK is {memlock}" in said["reason"]


@pytest.mark.root
def test_io_uring_that_was_asked_for_without_locked_memory_is_an_error(sealed: Path) -> None:
    options = json.dumps({"engine": "uring"})
    result = testbed.run_python(_LOAD, sealed, options, memlock=0, uid=_ANOTHER_UID)
    if result.exception is None:
        pytest.skip("this kernel does not charge rings")
    assert result.exception == "fastio.errors.ReadError"
    assert "RLIMIT_MEMLOCK is 0" in (result.message or "")


@pytest.mark.root
@pytest.mark.parametrize("engine", ["auto", "uring", "pread"])
def test_a_user_at_the_limit_of_threads_still_loads(
    sealed: Path, tmpfs: testbed.Mount, engine: str
) -> None:
    # On a known local mount, and on one of an unknown kind.
    for path in (sealed, Path(shutil.copy(sealed, tmpfs.path / "model"))):
        path.chmod(0o444)
        code = (
            "import resource, fastio.frameworks.numpy\n"
            "resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))" + _LOAD
        )
        result = testbed.run_python(code, path, json.dumps({"engine": engine}), uid=_ANOTHER_UID)
        _assert_whole(_said(result), path)


@pytest.mark.root
@pytest.mark.parametrize("temperature", ["cold", "warm"])
@pytest.mark.parametrize("cache", ["auto", "bypass", "keep"])
@pytest.mark.parametrize("engine", ["uring", "pread"])
def test_a_file_of_another_user_is_right_and_not_taken_for_warm_when_cold(
    sealed: Path, engine: str, cache: str, temperature: str
) -> None:
    sealed.chmod(0o444)
    options = json.dumps({"engine": engine, "cache": cache})
    with testbed.kept_warm(sealed) if temperature == "warm" else contextlib.nullcontext():
        result = testbed.run_python(_LOAD, sealed, options, uid=_ANOTHER_UID)
    said = _said(result)
    _assert_whole(said, sealed)
    if temperature == "warm":
        assert said["cache"] == "warm"
    else:
        assert said["cache"] in ("cold", "mixed")
        assert (said["mapped"] > 0) == (cache == "keep")  # brought in
    assert said["cache_reason"]


@pytest.mark.root
def test_a_file_that_may_not_be_read_is_an_error_with_its_name(tmp_path: Path) -> None:
    # Another user's child keeps the right to read everything, so this one drops it by itself. It
    # enters the folder before: others may not pass the folders above.
    code = """
import os, sys
import fastio, fastio.frameworks.numpy
os.chdir(sys.argv[1])
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
fastio.load("model")
"""
    write_model(tmp_path / "model").chmod(0o600)
    tmp_path.chmod(0o755)
    result = testbed.run_python(code, tmp_path)
    assert result.exception == "fastio.errors.ReadError"
    assert result.message == "model: open failed: EACCES (Permission denied)"
