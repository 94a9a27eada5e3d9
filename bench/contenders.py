"""Who takes part, by name: one table for the scripts, and for the worker that runs them."""

from __future__ import annotations

from bench.load_contenders import LOADERS
from bench.reader_contenders import READERS

CONTENDERS = {contender.name: contender for contender in (*LOADERS, *READERS)}
# Not processes of ours: see fio.py.
FIO, FIO_HUGE = "fio", "fio-huge"
FIOS = (FIO, FIO_HUGE)
TITLES = {name: contender.title for name, contender in CONTENDERS.items()} | {
    FIO: "fio, io_uring, direct",
    FIO_HUGE: "fio, io_uring, direct, huge pages",
}
