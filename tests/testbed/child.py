"""The child's side of `testbed.children`: restricts its own process, then runs the code given.

Started as a script: argv[1] is the restrictions in JSON, argv[2] the code, the rest the code's
arguments.
"""

import ctypes
import json
import os
import resource
import signal
import struct
import sys
import traceback

_PR_SET_KEEPCAPS, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 8, 22, 38
_SECCOMP_MODE_FILTER = 2
_CAP_DAC_READ_SEARCH = 1 << 2
_CAPABILITY_VERSION_3 = 0x20080522
_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _refuse(errors: list[tuple[int, int]]) -> None:
    # BPF: load the number of the call; if it is one of these, return its error; else allow it.
    checks = [
        step
        for number, code in errors
        for step in ((0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | code))
    ]
    program = b"".join(
        struct.pack("=HBBI", *step) for step in ((0x20, 0, 0, 0), *checks, (0x06, 0, 0, 0x7FFF0000))
    )
    steps = ctypes.create_string_buffer(program)
    filter_ = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(steps))
    _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _checked(_libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.c_char_p(filter_), 0, 0))


def _become(uid: int, groups: list[int]) -> None:
    _checked(_libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0))
    os.setgroups(groups)
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    kept = struct.pack("=6I", _CAP_DAC_READ_SEARCH, _CAP_DAC_READ_SEARCH, 0, 0, 0, 0)
    _checked(_libc.capset(ctypes.c_char_p(header), ctypes.c_char_p(kept)))


def _restrict(
    refused: list[tuple[int, int]], memlock: int | None, uid: int | None, groups: list[int]
) -> None:
    if memlock is not None:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (memlock, memlock))
    if uid is not None:
        _become(uid, groups)
    if refused:
        _refuse(refused)


def _main() -> None:
    restrictions, code = sys.argv[1:3]
    ending_fd = int(os.environ.pop("FASTIO_TEST_ENDING_FD"))
    sys.argv = ["<child>", *sys.argv[3:]]
    sys.path[0] = ""  # as for `python -c`: not this folder
    # A shell starts its background jobs with SIGINT ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        _restrict(**json.loads(restrictions))
        exec(compile(code, "<child>", "exec"), {"__name__": "__main__"})
    except BaseException as error:
        if isinstance(error, SystemExit) and not error.code:
            raise
        kind = type(error)
        name = (
            kind.__qualname__
            if kind.__module__ == "builtins"
            else f"{kind.__module__}.{kind.__qualname__}"
        )
        os.write(ending_fd, json.dumps([name, str(error)]).encode())
        traceback.print_exc()
        sys.exit(1)


_main()
