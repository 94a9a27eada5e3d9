"""Many files and few descriptors: the limit is raised if permitted, else the error names it."""

import errno
from pathlib import Path

import numpy as np
import pytest

import fastio
import testbed

_FILES = 150
_LIMIT = "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
_USES = {
    "load": "found = fastio.load(source)",
    "stream": "found = dict(fastio.open(source).stream())",
    "list": "found = fastio.load(sorted(source.glob('*.safetensors')))",
    "into": "found = {str(i): np.zeros(64) for i in range(150)}; fastio.load_into(source, found)",
    "save": (
        "found = {str(i): np.full(64, i) for i in range(150)}\n"
        "fastio.save(found, source / 'again', shard_bytes=8)\n"
        "found = fastio.load(source / 'again')"
    ),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tensors = {str(i): np.full(64, i, np.float64) for i in range(_FILES)}
    return fastio.save(tensors, tmp_path / "model", shard_bytes=1, durable=False)


def _code(use: str, soft: int, hard: str) -> str:
    return (
        "import sys\nfrom pathlib import Path\nimport numpy as np\nimport fastio\n"
        + _LIMIT.format(soft=soft, hard=hard)
        + f"source = Path(sys.argv[1])\n{_USES[use]}\n"
        + "assert all((found[str(i)] == i).all() for i in range(150))\n"
    )


@pytest.mark.parametrize("use", _USES)
def test_the_soft_limit_is_raised(folder: Path, use: str) -> None:
    hard = "resource.getrlimit(resource.RLIMIT_NOFILE)[1]"
    testbed.run_python(_code(use, 64, hard), folder).check()


@pytest.mark.parametrize("use", _USES)
def test_a_hard_limit_that_is_too_low_is_named_with_the_cure(folder: Path, use: str) -> None:
    result = testbed.run_python(_code(use, 64, "64"), folder)
    kind = "WriteError" if use == "save" else "ReadError"
    assert result.exception == f"fastio.errors.{kind}"
    message = result.message or ""
    assert "RLIMIT_NOFILE is 64" in message
    assert "ulimit -n" in message
    assert errno.errorcode[errno.EMFILE] in message
    assert ".safetensors" in message
    assert len(fastio.load(folder)) == _FILES


def test_a_limit_that_may_not_be_asked_for_is_no_error(folder: Path) -> None:
    code = "import sys, fastio; assert len(fastio.load(sys.argv[1])) == 150"
    testbed.run_python(code, folder, refuse={"prlimit64": "EPERM"}).check()
