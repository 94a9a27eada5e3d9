"""What is measured: for each case a file, the state of the cache, and who takes part.

Which script measures a case, and what was promised of it, stands in `suites`.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.contenders import FIO, FIO_HUGE, FIOS

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
    over_time : bool
        The memory is kept as it went, beside its peak.
    touched : bool
        Everybody's tensors are touched inside the clock, as they are when warm; for what is too
        small to be looked for in memory afterwards.
    """

    name: str
    title: str
    model: str
    cold: bool
    contenders: tuple[str, ...]
    repeats: int = 1
    memory: bool = False
    over_time: bool = False
    touched: bool = False


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
# Fresh interpreters instead of files; measured by load.py itself.
IMPORT = "import"

GETTERS = ("fastio-get", "fastio-get-unverified", "safetensors-get")
READER_CASES = (
    Case(
        "get-cold",
        "get_tensor in a loop: 2.47 GB, cold",
        "llama",
        True,
        (*GETTERS, "fastio", *FIOS),
    ),
    Case(
        "get-warm",
        "get_tensor in a loop: 2.47 GB, warm, touched",
        "llama",
        False,
        (*GETTERS, "fastio"),
    ),
    Case(
        "get-many",
        "get_tensor in a loop: 100,000 tensors of 4 KiB, warm, touched",
        "many",
        False,
        GETTERS,
    ),
    Case(
        "slices-cold",
        "1 % of the rows of every tensor: of 2.47 GB, cold, touched",
        "llama",
        True,
        (
            "fastio-slices",
            "fastio-slices-unverified",
            "fastio-get-slice",
            "safetensors-slices",
        ),
        touched=True,
    ),
    Case(
        "into-cold",
        "Into arrays that are there: 2.47 GB, cold",
        "llama",
        True,
        (
            "fastio-into",
            "fastio-into-unverified",
            "fastio-into-aligned",
            "fastio-into-aligned-unverified",
            "fastio-into-numpy",
            "safetensors-copy",
            *FIOS,
        ),
    ),
    Case(
        "stream-cold",
        "Tensor by tensor, each dropped: 2.47 GB, cold",
        "llama",
        True,
        ("fastio-stream", "fastio-stream-unverified", "fastio", "safetensors-stream", *FIOS),
    ),
    Case(
        "stream-memory",
        "Peak memory, tensor by tensor, each dropped: 2.47 GB, cold",
        "llama",
        True,
        ("fastio-stream", "fastio-stream-unverified", "safetensors-stream"),
        memory=True,
        over_time=True,
    ),
    Case(
        "frameworks-cold",
        "Whole loads as torch and as numpy: 2.47 GB, cold",
        "llama",
        True,
        ("fastio", "fastio-numpy-verified"),
    ),
    Case(
        "frameworks-warm",
        "Whole loads as torch and as numpy: 2.47 GB, warm, touched",
        "llama",
        False,
        ("fastio", "fastio-numpy-verified"),
    ),
)
# Memory does not jitter as time does, and a watched round is slow.
MEMORY_ROUNDS = 3
