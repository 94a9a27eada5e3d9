"""A process that stops before each system call by which files change: to be killed, failed or
inspected there.

The kernel reports each call of any thread (seccomp, user notification) before it is made. It holds
the thread until the answer. strace counts for each thread apart; here calls are counted over all of
them. Writes by io_uring are not system calls: the seam at the completion queue stops those.
"""

import contextlib
import errno
import fcntl
import json
import os
import platform
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest

_FORKED = Path(__file__).with_name("forked.py")


class _Call(NamedTuple):
    """Of x86-64: the number; which argument is a descriptor, which ones are paths."""

    number: int
    fd: int | None = None
    paths: tuple[int, ...] = ()


CALLS = {
    "pwrite64": _Call(18, fd=0),
    "fsync": _Call(74, fd=0),
    "fdatasync": _Call(75, fd=0),
    "ftruncate": _Call(77, fd=0),
    "rename": _Call(82, paths=(0, 1)),
    "link": _Call(86, paths=(0, 1)),
    "unlink": _Call(87, paths=(0,)),
    "fchmod": _Call(91, fd=0),
    "fchown": _Call(93, fd=0),
    "unlinkat": _Call(263, paths=(1,)),
    "renameat": _Call(264, paths=(1, 3)),
    "linkat": _Call(265, paths=(1, 3)),
    "fallocate": _Call(285, fd=0),
    "renameat2": _Call(316, paths=(1, 3)),
    "pwritev2": _Call(328, fd=0),
}
"""The calls that a process can be stopped at."""

_NAMES = {call.number: name for name, call in CALLS.items()}
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")  # id, thread, flags, number, architecture, ip, arguments
_RECEIVE, _ANSWER = 0xC0502100, 0xC0182101
_CONTINUE = 1


@dataclass(frozen=True)
class Stop:
    """A system call that is about to be made.

    `at` counts them from 0; `path` is the file of the descriptor, or the last path argument;
    `nbytes` is the third argument, if that is a number of bytes.
    """

    at: int
    name: str
    path: str
    nbytes: int


class Answer(NamedTuple):
    """The answer to a call: `error` is an errno; without one it returns `value` at once."""

    kind: str
    value: int = 0


GO_ON = Answer("go on")
KILL = Answer("kill")


def fail_with(error: int) -> Answer:
    """The call is not made, and fails."""
    return Answer("fail", error)


def return_at_once(value: int) -> Answer:
    """The call is not made, and returns a value."""
    return Answer("return", value)


@dataclass
class Ended:
    """The end of a piece of code: its messages, its exception, and its stops."""

    returncode: int = 0
    said: list[Any] = field(default_factory=list)
    exception: str | None = None
    message: str = ""
    error: dict[str, Any] = field(default_factory=dict)
    stops: list[Stop] = field(default_factory=list)
    dying: bool = False

    @property
    def killed(self) -> bool:
        """Whether it was."""
        return self.returncode == -signal.SIGKILL

    def names(self) -> list[str]:
        """The calls, in order."""
        return [stop.name for stop in self.stops]

    def check(self) -> "Ended":
        """Return the result itself, unless the code raised or was killed: AssertionError."""
        assert (self.returncode, self.exception) == (0, None), (self.returncode, self.message)
        return self


class Forks:
    """A process that runs pieces of code, each in a fork of its own; `forks` makes one."""

    def __init__(self, to: socket.socket) -> None:
        self._to = to

    def run(
        self,
        code: str,
        *args: Any,
        at: Callable[[Stop], Answer] | None = None,
        kill_after_s: float | None = None,
        timeout_s: float = 60,
    ) -> Ended:
        """Run code, and answer each of its calls.

        Parameters
        ----------
        code
            `argv` are the arguments, `say(value)` sends something that JSON knows.
        at
            Asked before each call; the process waits meanwhile, all of its other threads may go on.
            Without it no call stops.
        kill_after_s
            Seconds after which it is killed, counted from when it begins.
        timeout_s
            Seconds after which it is killed, and a TimeoutError raised.

        Raises
        ------
        pytest.skip.Exception
            If this machine does not report system calls.
        """
        numbers = [call.number for call in CALLS.values()] if at is not None else []
        asked = {
            "code": code,
            "args": [os.fspath(arg) if isinstance(arg, Path) else arg for arg in args],
            "numbers": numbers,
            "quiet": True,
        }
        if at is not None and platform.machine() != "x86_64":
            pytest.skip("knows the numbers of system calls of x86-64 only")
        self._to.send(json.dumps(asked).encode())
        ended = Ended()
        with contextlib.ExitStack() as held:
            message, fds = self._receive()
            if fds:
                held.callback(os.close, fds[0])
            if "refused" in message:
                self._receive()
                pytest.skip(f"this machine does not report system calls: {message['refused']}")
            pid: int = message["listener"] if fds else message["begun"]
            try:
                self._attend(ended, pid, fds[0] if fds else None, at, kill_after_s, timeout_s)
            except BaseException:  # its later messages must not pass for the next one's
                _kill(pid)
                self._to.close()
                raise
        return ended

    def _attend(
        self,
        ended: Ended,
        pid: int,
        listener: int | None,
        at: Callable[[Stop], Answer] | None,
        kill_after_s: float | None,
        timeout_s: float,
    ) -> None:
        begin = time.monotonic()
        limit = min(timeout_s, timeout_s if kill_after_s is None else kill_after_s)
        poll = select.poll()
        poll.register(self._to, select.POLLIN)
        if listener is not None:
            poll.register(listener, select.POLLIN)
        late = False
        while True:
            events = poll.poll(max(0.0, begin + limit - time.monotonic()) * 1000)
            if not events:
                if late:
                    raise TimeoutError("does not end, though it was killed")
                late = True
                limit += 20
                _kill(pid)
            for fd, event in events:
                if fd == listener and event & select.POLLIN and at is not None:
                    self._answer(ended, pid, listener, at)
                elif fd == listener:
                    poll.unregister(listener)
                elif self._hear(ended):
                    if late and kill_after_s is None:
                        raise TimeoutError(f"took longer than {timeout_s} s")
                    return

    def _hear(self, ended: Ended) -> bool:
        """Take one message; returns whether it was the last."""
        message, _ = self._receive()
        if "said" in message:
            ended.said.append(message["said"])
        if "raised" in message:
            ended.exception, ended.message, ended.error = message["raised"]
        ended.returncode = message.get("ended", 0)
        return "ended" in message

    def _receive(self) -> tuple[dict[str, Any], list[int]]:
        data, fds, _, _ = socket.recv_fds(self._to, 1 << 20, 1)
        if not data:
            raise RuntimeError("the process that forks has ended")
        return json.loads(data), fds

    @staticmethod
    def _answer(ended: Ended, pid: int, listener: int, at: Callable[[Stop], Answer]) -> None:
        notification = bytearray(_NOTIFICATION.size)
        try:
            fcntl.ioctl(listener, _RECEIVE, notification)
        except OSError as error:
            if error.errno == errno.ENOENT:  # it was killed meanwhile
                return
            raise
        told, thread, _, number, _, _, *arguments = _NOTIFICATION.unpack(notification)
        name = _NAMES[number]
        try:
            path = _path_of(thread, CALLS[name], arguments)
        except (FileNotFoundError, ProcessLookupError):
            return
        if path.startswith("/memfd:"):  # memory for a trial answer
            _send(listener, told, GO_ON)
            return
        if ended.dying:
            return
        stop = Stop(len(ended.stops), name, path, arguments[2])
        ended.stops.append(stop)
        answer = at(stop)
        if answer.kind == "kill":
            ended.dying = True  # another thread's call may have been reported already
            _kill(pid)
            return
        _send(listener, told, answer)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
        os.kill(pid, signal.SIGKILL)


def _send(listener: int, told: int, answer: Answer) -> None:
    value = answer.value if answer.kind == "return" else 0
    error = -answer.value if answer.kind == "fail" else 0
    flags = _CONTINUE if answer.kind == "go on" else 0
    with contextlib.suppress(FileNotFoundError):  # the process was killed meanwhile
        fcntl.ioctl(listener, _ANSWER, struct.pack("=QqiI", told, value, error, flags))


def _path_of(thread: int, call: _Call, arguments: list[int]) -> str:
    if call.fd is not None:
        return os.readlink(f"/proc/{thread}/fd/{arguments[call.fd]}")
    with open(f"/proc/{thread}/mem", "rb", buffering=0) as memory:
        address = arguments[call.paths[-1]]
        memory.seek(address)
        text = memory.read(4096 - address % 4096)
        if b"\0" not in text:  # goes on in the next page
            text += memory.read(4096)
    return os.fsdecode(text.split(b"\0")[0])


@contextlib.contextmanager
def forks(before: str) -> Iterator[Forks]:
    """Start a process for `Forks`; it ends with the block.

    Parameters
    ----------
    before
        Code that runs there once, such as imports; each piece of code sees its names.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    paths = os.pathsep.join(path for path in sys.path if path)
    with ours:
        with theirs:
            server = subprocess.Popen(
                [sys.executable, str(_FORKED), str(theirs.fileno()), before],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={
                    **os.environ,
                    "PYTHONPATH": paths,
                    "PYTHONDONTWRITEBYTECODE": "1",
                    "OPENBLAS_NUM_THREADS": "1",  # a process that forks has one thread
                },
            )
        try:
            if not ours.recv(1 << 20):
                raise RuntimeError("the process that forks did not start")
            yield Forks(ours)
        finally:
            ours.close()
            server.wait(timeout=30)
