"""A process has no context on a GPU before it loads to one, nor after a fork. After Ctrl-C it has
the same memory as before.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from samples import write_even
from testbed import run_python

pytestmark = pytest.mark.gpu

# Asks the driver itself whether the primary context of the first device is active.
_ACTIVE = """
import ctypes

def active():
    driver = ctypes.CDLL("libcuda.so.1")
    assert driver.cuInit(0) == 0
    device, flags, found = ctypes.c_int(), ctypes.c_uint(), ctypes.c_int()
    assert driver.cuDeviceGet(ctypes.byref(device), 0) == 0
    call = driver.cuDevicePrimaryCtxGetState
    assert call(device, ctypes.byref(flags), ctypes.byref(found)) == 0
    return bool(found.value)
"""


def test_nothing_makes_a_context_before_a_device_is_asked_for(sealed: Path) -> None:
    code = f"""{_ACTIVE}
import sys
import fastio, fastio.torch
print(fastio.engine_report(), file=sys.stderr)
import torch
fastio.load(sys.argv[1], framework="torch")
fastio.load(sys.argv[1], framework="torch", device_map={{"": "cpu"}})
assert fastio.trim() == 0
print(torch.cuda.is_initialized(), active())
torch.empty(1, device="cuda")
print(torch.cuda.is_initialized(), active())
"""
    # The second line shows that the answer can be yes.
    result = run_python(code, sealed, timeout_s=120).check()
    assert result.stdout == "False False\nTrue True\n"
    assert "devices: libcuda.so.1, CUDA" in result.stderr


@pytest.mark.parametrize(
    "spec", ["dict(a=torch.empty(0, 3))", "dict(a=torch.ones(3))"], ids=["empty", "three values"]
)
def test_the_first_tensor_of_a_process_may_be_one_that_is_loaded(spec: str, tmp_path: Path) -> None:
    code = """
import sys
import fastio, torch
expected = eval(sys.argv[2])
fastio.save(expected, sys.argv[1])
found = fastio.load(sys.argv[1], framework="torch", device="cuda")
print(found["a"].device, torch.equal(found["a"].cpu(), expected["a"]))
"""
    result = run_python(code, tmp_path / "model", spec, timeout_s=120).check()
    assert result.stdout == "cuda:0 True\n"


@pytest.mark.parametrize("loaded", [True, False], ids=["after a load", "after a tensor"])
def test_a_forked_child_of_a_process_with_cuda_gets_an_error(sealed: Path, loaded: bool) -> None:
    code = """
import os, sys, traceback
import fastio, torch
path, loaded = sys.argv[1], sys.argv[2] == "True"
torch.ones(1, device="cuda")
if loaded:
    fastio.load(path, framework="torch", device="cuda")
child = os.fork()
if child == 0:
    status = 1
    try:
        assert fastio.load(path, framework="torch")  # the host's memory is still to be had
        try:
            fastio.load(path, framework="torch", device="cuda:0")
        except RuntimeError as error:
            print(str(error).splitlines()[0], flush=True)
            status = 0
        fastio.trim()
    except BaseException:
        traceback.print_exc()
        status = 2
    os._exit(status)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status))
found = fastio.load(path, framework="torch", device="cuda")  # the parent goes on as before
print(len(found))
"""
    said, status, count = (
        run_python(code, sealed, str(loaded), timeout_s=120).check().stdout.split("\n")[:3]
    )
    assert "fork" in said
    assert status == "0"
    assert int(count) > 0


# Loads again and again until Ctrl-C comes. Prints the memory held then, and whether the next load
# is right.
_INTERRUPT = """
import gc, json, os, signal, sys, threading, time
import fastio, torch
from fastio import _native

path = sys.argv[1]
options = fastio.Options(block_bytes=1 << 20, cache="bypass")

def load():
    return fastio.load(path, framework="torch", device="cuda", options=options)

expected = fastio.load(path, framework="torch")
load()
before = torch.cuda.memory_allocated()
interrupted = 0
for after_s in (0.01, 0.02, 0.05, 0.1, 0.2):
    timer = threading.Timer(after_s, os.kill, (os.getpid(), signal.SIGINT))
    try:
        timer.start()
        limit = time.monotonic() + 10
        while time.monotonic() < limit:
            load()
    except KeyboardInterrupt:
        interrupted += 1
    timer.join()
deadline = time.monotonic() + 20
while _native.pinned_account()["leased_bytes"] and time.monotonic() < deadline:
    time.sleep(0.01)
gc.collect()
held = torch.cuda.memory_allocated() - before
leased = _native.pinned_account()["leased_bytes"]
found = load()
same = all(torch.equal(found[name].cpu(), expected[name]) for name in expected)
print(json.dumps([interrupted, held, leased, same, len(found) == len(expected)]))
"""


def test_an_interrupt_ends_a_load_and_leaves_nothing(tmp_path: Path) -> None:
    path = write_even(tmp_path / "model", 64, 4 << 20)
    result = run_python(_INTERRUPT, path, timeout_s=180).check()
    assert json.loads(result.stdout) == [5, 0, 0, True, True]


def test_a_process_that_leaves_in_the_middle_of_a_load_ends(sealed: Path) -> None:
    code = """
import sys
import fastio, torch
handle = fastio.start_load(sys.argv[1], framework="torch", device="cuda")
kept = fastio.load(sys.argv[1], framework="torch", device="cuda")
"""
    result = run_python(code, sealed, timeout_s=120).check()
    assert result.stdout == ""
