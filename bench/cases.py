"""What is measured: for each case a file, the state of the cache, and who takes part."""

from __future__ import annotations

from dataclasses import dataclass

from bench.contenders import FIO, FIO_HUGE

RIVALS = ("fastsafetensors", "runai", "safetensors")
ENGINES = ("fastio-uring", "fastio-pread")


@dataclass(frozen=True)
class Case:
    """One table of figures.

    Attributes
    ----------
    name, title : str
        For the command line, and for people.
    model : str
        One of `models.NAMES`.
    cold : bool
        The file is out of the page cache at the start of each measurement, else wholly in it.
    contenders : tuple of str
        Names in `contenders`.
    repeats : int
        Measurements in each process; their median is the process's one value. For what takes less
        than a millisecond.
    memory : bool
        The memory of the process is watched, and its figures of time are not to be used.
    """

    name: str
    title: str
    model: str
    cold: bool
    contenders: tuple[str, ...]
    repeats: int = 1
    memory: bool = False


LOAD_CASES = (
    Case(
        "llama-cold",
        "2.47 GB, Llama-3.2-1B shapes in bf16, cold",
        "llama",
        True,
        ("fastio", "fastio-unverified", *ENGINES, *RIVALS, "safetensors-pread", FIO, FIO_HUGE),
    ),
    Case(
        "llama-warm",
        "2.47 GB, Llama-3.2-1B shapes in bf16, warm, touched",
        "llama",
        False,
        ("fastio", "fastio-unverified", *RIVALS),
    ),
    Case(
        "verify-cold",
        "What verification costs: 2.47 GB, cold",
        "llama",
        True,
        ("fastio", "fastio-unverified"),
    ),
    Case(
        "memory",
        "Peak memory: 2.47 GB, cold",
        "llama",
        True,
        ("fastio", *RIVALS),
        memory=True,
    ),
    Case(
        "minilm-cold",
        "90 MB, all-MiniLM-L6-v2, cold",
        "minilm",
        True,
        ("fastio", "fastio-unverified", *ENGINES, *RIVALS),
    ),
    Case(
        "minilm-warm",
        "90 MB, all-MiniLM-L6-v2, warm, touched",
        "minilm",
        False,
        ("fastio", "fastio-unverified", *RIVALS),
    ),
    Case(
        "small-cold",
        "100 KB, cold",
        "small",
        True,
        ("fastio", "fastio-unverified", *RIVALS),
        repeats=15,
    ),
    Case(
        "small-warm",
        "100 KB, warm, touched",
        "small",
        False,
        ("fastio", "fastio-unverified", *RIVALS),
        repeats=15,
    ),
    Case(
        "many-header",
        "100,000 tensors: header parse and catalog, warm",
        "many",
        False,
        ("fastio-locate", "safe-open"),
        repeats=3,
    ),
    Case(
        "many-warm",
        "100,000 tensors of 4 KiB, warm, touched",
        "many",
        False,
        ("fastio", "fastio-unverified", "fastio-numpy", "safetensors", "safetensors-numpy"),
    ),
)
CASES = {case.name: case for case in LOAD_CASES}
# Fresh interpreters instead of files; measured by load.py itself.
IMPORT = "import"
CASE_NAMES = (*CASES, IMPORT)
# Memory does not jitter as time does, and a watched round is slow.
MEMORY_ROUNDS = 3
