"""Python code run in a child under restrictions: no io_uring, little locked memory, another user.

The child restricts itself (`child.py`) after the interpreter has started. So no code runs between
fork and exec, and the other user needs no access to the interpreter's folders.
"""

import errno
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from testbed.calls import NUMBERS
from testbed.requirements import require_root, require_tools

_CHILD = Path(__file__).with_name("child.py")


@dataclass(frozen=True)
class ChildResult:
    """The result of a child.

    `exception` is the qualified name of the raised exception (such as "fastio.errors.ReadError")
    and `message` its text; both are None on success. `trace` is the output of strace.
    """

    returncode: int
    stdout: str
    stderr: str
    exception: str | None = None
    message: str | None = None
    trace: str = ""

    def check(self) -> "ChildResult":
        """Return the result itself.

        Raises
        ------
        AssertionError
            If the child failed, with everything that it said.
        """
        assert self.returncode == 0, (
            f"exit {self.returncode}\n--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"
        )
        return self


def run_python(
    code: str,
    *args: str | os.PathLike[str],
    seccomp: Literal["EPERM", "ENOSYS"] | None = None,
    refuse: Mapping[str, str] | None = None,
    memlock: int | None = None,
    uid: int | None = None,
    groups: Sequence[int] = (),
    under: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    inject: Sequence[str] = (),
    inject_path: str | os.PathLike[str] | None = None,
    timeout_s: float = 120,
) -> ChildResult:
    """Run `code` in a child and return its result.

    Parameters
    ----------
    code
        Python source; `sys.argv[1:]` are `args`.
    seccomp
        io_uring's system calls (425-427) fail with this error. Needs no privilege.
    refuse
        System calls by name that fail, each with an error by name: {"fallocate": "EPERM"}. They are
        those of `testbed.calls`, refused before the code runs. Needs no privilege.
    memlock
        RLIMIT_MEMLOCK in bytes. It does not bind root, so give `uid` as well.
    uid
        User and group of the child. Of root's capabilities it keeps the
        right to read and enter everything, so that neither the virtual environment nor a test's
        folder needs to be opened for it; it owns no files and may not write files of others.
    groups
        Further groups of that user.
    under
        A program with its arguments that runs the child, such as ("unshare", "-Ur").
    env
        Variables on top of this process's own.
    inject
        The argument of `strace -e inject=`, such as "preadv2:error=EIO:when=2"; counted for each
        thread apart.
    inject_path
        Only system calls on this file count and are injected.
    timeout_s
        Seconds after which the child is killed.

    Raises
    ------
    subprocess.TimeoutExpired
        If the child takes longer.
    pytest.skip.Exception
        If `uid` is given and the process is not root's, strace is needed and missing, or the
        numbers of this machine's system calls are not known.
    """
    refused = dict(refuse or {})
    if seccomp:
        refused |= dict.fromkeys(("io_uring_setup", "io_uring_enter", "io_uring_register"), seccomp)
    if refused and not NUMBERS:
        pytest.skip("the numbers of this machine's system calls are not known")
    restrictions = {
        "refused": [(NUMBERS[name], getattr(errno, code)) for name, code in refused.items()],
        "memlock": memlock,
        "uid": uid,
        "groups": list(groups),
    }
    require_tools(*under[:1])
    if uid is not None:
        require_root("runs code as another user")
    with tempfile.TemporaryDirectory(prefix="fastio-child-") as folder:
        ending, trace = Path(folder, "ending"), Path(folder, "trace")
        argv = [
            sys.executable,
            str(_CHILD),
            json.dumps(restrictions),
            code,
            *(os.fspath(arg) for arg in args),
        ]
        ending_fd = os.open(ending, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        try:
            done = subprocess.run(
                [*_strace(inject, inject_path, trace), *under, *argv],
                capture_output=True,
                text=True,
                check=False,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **(env or {}), "FASTIO_TEST_ENDING_FD": str(ending_fd)},
                pass_fds=(ending_fd,),
                timeout=timeout_s,
            )
        finally:
            os.close(ending_fd)
        exception, message = json.loads(ending.read_text() or "[null, null]")
        seen = trace.read_text(errors="replace") if trace.exists() else ""
    return ChildResult(done.returncode, done.stdout, done.stderr, exception, message, seen)


def _strace(inject: Sequence[str], path: str | os.PathLike[str] | None, trace: Path) -> list[str]:
    if not inject:
        return []
    require_tools("strace")
    calls = ",".join(sorted({fault.split(":")[0] for fault in inject}))
    argv = ["strace", "-f", "-qq", "-o", str(trace), "-e", f"trace={calls}"]
    if path is not None:
        argv += ["-P", os.fspath(path)]
    for fault in inject:
        argv += ["-e", f"inject={fault}"]
    return argv
