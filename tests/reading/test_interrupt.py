"""Ctrl-C ends a stream, a loop and a slice within 100 ms, also on a disk that does not answer."""

import json
from typing import Any

import pytest

import testbed
from samples import CHUNK_BYTES, write_even

# Interrupts a read of each file of argv[4:] while the disk hangs. Prints how long each took to end.
# Prints the open files and threads before, during the hang, and after the disk answered. argv:
# engine, way, control file, files.
_INTERRUPT = """
import gc, json, os, signal, sys, threading, time
import numpy as np
import fastio, fastio.frameworks.numpy
from fastio import _native
from fastio.formats import huggingface

engine, way, control, *paths = sys.argv[1:]
settle, wait_s = 0.3, 10

def say(what):
    with open(control + ".new", "w") as file:
        file.write(what)
    os.replace(control + ".new", control)

def held():
    gc.collect()
    files, threads = os.listdir("/proc/self/fd"), os.listdir("/proc/self/task")
    return [len(files), len(threads), _native.testing.abandoned_bytes()]

located = huggingface.locate

def locate_then_hang(source, names):
    catalog = located(source, names)
    say("hang")
    return catalog

def interrupt():
    time.sleep(settle)
    sent.append(time.monotonic())
    os.kill(os.getpid(), signal.SIGINT)

options = fastio.Options(engine=engine, block_bytes=1 << 20)

def read(reader):
    if way == "stream":
        for _ in reader.stream(memory_limit_bytes=4 << 20):
            pass
    elif way == "loop":
        for name in reader:
            reader.tensor(name)
    elif way == "slice":
        return len(reader["t5"][10:20])
    elif way == "load_into":  # memory that no read goes straight to: that has to wait for the read
        targets = {name: np.zeros(reader[name].nbytes + 1, np.uint8)[1:] for name in reader}
        fastio.load_into(reader.info("t0").path, targets, options=options)

idle = held()[1]
with fastio.open(paths[0], options=options) as reader:
    read(reader)
deadline = time.monotonic() + wait_s
while held()[1] > idle and time.monotonic() < deadline:
    time.sleep(0.002)  # lanes end after the read does
before = held()
seconds = []
for path in paths[1:]:
    sent = []
    say("0")
    huggingface.locate = located
    reader = fastio.open(path, options=options)
    # An open waits for the readahead behind the header: the hang meets the data alone.
    os.close(os.open(path, os.O_RDONLY))
    if way == "load_into":
        huggingface.locate = locate_then_hang
    else:
        say("hang")
    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    try:
        read(reader)
    except KeyboardInterrupt:
        seconds.append(time.monotonic() - sent[0])
    begin = time.monotonic()
    reader.close()
    seconds[-1] += time.monotonic() - begin
    interrupter.join()
deadline = time.monotonic() + wait_s
while _native.testing.abandoned_bytes() == 0 and time.monotonic() < deadline:
    time.sleep(0.01)  # what is staged is counted by its lane, at its next look
hung = held()
say("0")
deadline = time.monotonic() + wait_s
while any(now > then for now, then in zip(held(), before)) and time.monotonic() < deadline:
    time.sleep(0.01)
after = held()
huggingface.locate = located
with fastio.open(paths[1], options=options) as reader:
    loaded = len(reader.load())
print(json.dumps(dict(seconds=seconds, before=before, hung=hung, after=after, loaded=loaded)))
"""


@pytest.mark.parametrize("way", ["stream", "loop", "slice", "load_into"])
def test_an_interrupt_is_answered_within_100_ms_and_leaves_nothing_behind(
    slow_mount: testbed.SlowMount, engine: str, way: str
) -> None:
    # A file for each try: the kernel itself cannot reopen a file with pages that a hung read holds.
    for i in range(4):
        write_even(slow_mount.source / f"model{i}", 8, CHUNK_BYTES, seed=i)
    paths = [slow_mount.path / f"model{i}" for i in range(4)]
    result = testbed.run_python(_INTERRUPT, engine, way, slow_mount.control, *paths)
    said: Any = json.loads(result.check().stdout)
    assert len(said["seconds"]) == 3
    # The best of three: a busy machine may delay a process for longer than the promise.
    assert min(said["seconds"]) < 0.1, said
    files, threads, abandoned = said["hung"]
    assert threads > said["before"][1], "nothing was hung"
    assert abandoned > 0
    assert files > said["before"][0]
    assert all(now <= then for now, then in zip(said["after"], said["before"], strict=True)), said
    assert said["loaded"] == 8


def test_a_stream_that_was_interrupted_between_two_tensors_is_over_and_the_reader_is_not(
    slow_mount: testbed.SlowMount, engine: str
) -> None:
    write_even(slow_mount.source / "model", 8, CHUNK_BYTES)
    code = """
import os, signal, sys
import fastio

with fastio.open(sys.argv[1], options=fastio.Options(engine=sys.argv[2])) as reader:
    stream = reader.stream()
    seen = 0
    try:
        for name, _ in stream:
            seen += 1
            if name == "t3":
                os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        pass
    print(seen, len(dict(reader.stream())), len(reader.tensor("t5")))
"""
    said = testbed.run_python(code, slow_mount.path / "model", engine).check().stdout.split()
    assert said == ["4", "8", str(CHUNK_BYTES)]
