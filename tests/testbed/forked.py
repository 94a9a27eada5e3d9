"""The other side of `testbed.stops`: a process that forks a child for each piece of code.

Started as a script: argv[1] is a socket's descriptor, argv[2] code that runs once, before any fork.
"""

import ctypes
import json
import os
import signal
import socket
import struct
import sys
import traceback
from typing import Any

_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP, _SET_MODE_FILTER = 317, 1  # of x86-64
_NEW_LISTENER, _WAIT_KILLABLE = 8, 32
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000
_libc = ctypes.CDLL(None, use_errno=True)


def _listener(numbers: list[int]) -> int:
    """A descriptor that reports each of these system calls, which wait for an answer."""
    count = len(numbers)
    steps = [(0x20, 0, 0, 0)]  # BPF: load the number
    steps += [(0x15, count - i, 0, number) for i, number in enumerate(numbers)]
    steps += [(0x06, 0, 0, _ALLOW), (0x06, 0, 0, _NOTIFY)]
    text = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    filter_ = ctypes.c_char_p(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(text)))
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    fd = int(_libc.syscall(_SECCOMP, _SET_MODE_FILTER, _NEW_LISTENER | _WAIT_KILLABLE, filter_))
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return fd


def _say(to: socket.socket, **what: Any) -> None:
    to.send(json.dumps(what).encode())


def _run(asked: dict[str, Any], to: socket.socket, scope: dict[str, Any]) -> None:
    # A shell starts its background jobs with SIGINT ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if asked["numbers"]:
            try:
                fd = _listener(asked["numbers"])
            except OSError as error:
                return _say(to, refused=str(error))
            socket.send_fds(to, [json.dumps({"listener": os.getpid()}).encode()], [fd])
            os.close(fd)
        else:
            _say(to, begun=os.getpid())
        scope["say"] = lambda what: _say(to, said=what)
        scope["argv"] = asked["args"]
        exec(compile(asked["code"], "<forked>", "exec"), scope)
    except BaseException as error:
        kind = type(error)
        told = {
            name: getattr(error, name, None) for name in ("errno", "operation", "path", "offset")
        }
        _say(to, raised=[f"{kind.__module__}.{kind.__qualname__}", str(error), told])
        if not asked["quiet"]:
            traceback.print_exc()


def _next(to: socket.socket) -> bytes:
    try:
        return to.recv(1 << 20)
    except ConnectionResetError:  # the parent has failed, and does not listen any more
        return b""


def _main() -> None:
    to = socket.socket(fileno=int(sys.argv[1]))
    sys.path[0] = ""
    scope: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(sys.argv[2], "<before>", "exec"), scope)
    _say(to, ready=True)
    while asked := _next(to):
        child = os.fork()
        if child == 0:
            _run(json.loads(asked), to, scope)
            sys.stderr.flush()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        _say(to, ended=os.waitstatus_to_exitcode(status))


_main()
