"""What is measured: for each case a model, the state of its file, and who takes part.

Which script measures a case, and what was promised of it, stands in `suites`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bench.limits import FIO, FIO_WRITE, READER

RIVALS = ("fastsafetensors", "runai", "safetensors", "safetensors-rc")


@dataclass(frozen=True)
class Case:
    """One table of figures: a `LoadCase` or a `SaveCase`.

    Attributes
    ----------
    name, title : str
        For the command line, and for people.
    model : str
        One of `models.NAMES`.
    contenders : tuple of str
        Names in `contenders`.
    repeats : int
        Measurements in each process; their median is the process's one value. For what takes less
        than a millisecond.
    memory : bool
        The memory of the process is watched, and its figures of time are not to be used.
    over_time : bool
        The memory is kept as it went, beside its peak.
    """

    name: str
    title: str
    model: str
    contenders: tuple[str, ...]
    repeats: int = 1
    memory: bool = False
    over_time: bool = False


@dataclass(frozen=True)
class LoadCase(Case):
    """One table of figures of loads.

    Attributes
    ----------
    cold : bool
        The file is out of the page cache at the start of each measurement, else wholly in it.
    touched : bool
        Everybody's tensors are touched inside the clock, as they are when warm; for what is too
        small to be looked for in memory afterwards.
    """

    cold: bool = field(kw_only=True)
    touched: bool = False


@dataclass(frozen=True)
class GpuCase(LoadCase):
    """One table of figures of loads onto a GPU."""


@dataclass(frozen=True)
class SaveCase(Case):
    """One table of figures of saves."""


LOAD_CASES = (
    LoadCase(
        "llama-cold",
        "2.47 GB, Llama-3.2-1B shapes in bf16, cold",
        "llama",
        ("fastio", "fastio-unverified", "fastio-pread", *RIVALS, FIO),
        cold=True,
    ),
    LoadCase(
        "llama-warm",
        "2.47 GB, Llama-3.2-1B shapes in bf16, warm, touched",
        "llama",
        ("fastio", "fastio-unverified", *RIVALS),
        cold=False,
    ),
    LoadCase(
        "memory",
        "Peak memory: 2.47 GB, cold",
        "llama",
        ("fastio", *RIVALS),
        cold=True,
        memory=True,
    ),
    LoadCase(
        "minilm-cold",
        "90 MB, all-MiniLM-L6-v2, cold",
        "minilm",
        ("fastio", "fastio-unverified", "fastio-pread", *RIVALS),
        cold=True,
    ),
    LoadCase(
        "minilm-warm",
        "90 MB, all-MiniLM-L6-v2, warm, touched",
        "minilm",
        ("fastio", "fastio-unverified", *RIVALS),
        cold=False,
    ),
    LoadCase(
        "small-cold",
        "100 KB, cold",
        "small",
        ("fastio", "fastio-unverified", *RIVALS),
        cold=True,
        repeats=7,
    ),
    LoadCase(
        "small-warm",
        "100 KB, warm, touched",
        "small",
        ("fastio", "fastio-unverified", *RIVALS),
        cold=False,
        repeats=7,
    ),
    LoadCase(
        "many-header",
        "100,000 tensors: header parse and catalog, warm",
        "many",
        ("fastio-locate", "safe-open"),
        cold=False,
        repeats=3,
    ),
    LoadCase(
        "many-warm",
        "100,000 tensors of 4 KiB, warm, touched",
        "many",
        ("fastio", "fastio-unverified", "fastio-numpy", "safetensors", "safetensors-numpy"),
        cold=False,
    ),
)
# Fresh interpreters instead of files; measured by load.py itself.
IMPORT = "import"

GETTERS = ("fastio-get", "fastio-get-unverified", "safetensors-get")
READER_CASES = (
    LoadCase(
        "get-cold",
        "get_tensor in a loop: 2.47 GB, cold",
        "llama",
        (*GETTERS, "fastio", FIO),
        cold=True,
    ),
    LoadCase(
        "get-warm",
        "get_tensor in a loop: 2.47 GB, warm, touched",
        "llama",
        (*GETTERS, "fastio"),
        cold=False,
    ),
    LoadCase(
        "get-many",
        "get_tensor in a loop: 100,000 tensors of 4 KiB, warm, touched",
        "many",
        GETTERS,
        cold=False,
    ),
    LoadCase(
        "slices-cold",
        "1 % of the rows of every tensor: of 2.47 GB, cold, touched",
        "llama",
        (
            "fastio-slices",
            "fastio-slices-unverified",
            "fastio-get-slice",
            "safetensors-slices",
        ),
        cold=True,
        touched=True,
    ),
    LoadCase(
        "into-cold",
        "Into arrays that are there: 2.47 GB, cold",
        "llama",
        (
            "fastio-into",
            "fastio-into-unverified",
            "fastio-into-aligned",
            "fastio-into-aligned-unverified",
            "fastio-into-numpy",
            "safetensors-copy",
            FIO,
        ),
        cold=True,
    ),
    LoadCase(
        "stream-cold",
        "Tensor by tensor, each dropped: 2.47 GB, cold",
        "llama",
        ("fastio-stream", "fastio-stream-unverified", "fastio", "safetensors-stream", FIO),
        cold=True,
    ),
    LoadCase(
        "stream-memory",
        "Peak memory, tensor by tensor, each dropped: 2.47 GB, cold",
        "llama",
        ("fastio-stream", "fastio-stream-unverified", "safetensors-stream"),
        cold=True,
        memory=True,
        over_time=True,
    ),
    LoadCase(
        "frameworks-cold",
        "Whole loads as torch and as numpy: 2.47 GB, cold",
        "llama",
        ("fastio", "fastio-numpy-verified"),
        cold=True,
    ),
    LoadCase(
        "frameworks-warm",
        "Whole loads as torch and as numpy: 2.47 GB, warm, touched",
        "llama",
        ("fastio", "fastio-numpy-verified"),
        cold=False,
    ),
)

SAVE_RIVALS = (
    "safetensors-save",
    "safetensors-save-fsync",
    "torch-save",
    "torch-save-fsync",
)
SAVE_CASES = (
    SaveCase(
        "save-llama",
        "2.47 GB, Llama-3.2-1B shapes in bf16, to a new file",
        "llama",
        (
            "fastio-save",
            "fastio-save-unsummed",
            "fastio-save-pread",
            "fastio-save-not-durable",
            *SAVE_RIVALS,
            FIO_WRITE,
        ),
    ),
    SaveCase(
        "save-memory",
        "Peak memory beside the tensors: 2.47 GB to a new file",
        "llama",
        ("fastio-save", "fastio-save-pread", "safetensors-save", "torch-save"),
        memory=True,
    ),
    SaveCase(
        "save-many",
        "100,000 tensors of 4 KiB, to a new file",
        "many",
        (
            "fastio-save",
            "fastio-save-numpy",
            "safetensors-save",
            "safetensors-save-fsync",
            "safetensors-save-numpy",
            "safetensors-save-numpy-fsync",
        ),
    ),
    SaveCase(
        "save-background",
        "In the background: until the call returns, 2.47 GB",
        "llama",
        ("fastio-save-borrow", "fastio-save-copy", "copy-each", "copy-threads"),
    ),
)
# Memory does not jitter as time does, and a watched round is slow.
MEMORY_ROUNDS = 3

# The script measures them by itself: disks have to be made for them.
STORE_CASES = (
    "store-one-root",
    "store-disks",
    "store-replica",
    "store-save",
    "store-open",
    "store-verify",
)


# At most six loaders: each holds its part of the GPU from the first round to the last.
_ONTO_GPU = (
    "fastio-gpu",
    "fastio-gpu-unverified",
    "fastio-gpu-into",
    "instanttensor-gpu",
    "runai-gpu",
    "safetensors-rc-gpu",
    "copy-pinned",
)
GPU_CASES = (
    GpuCase(
        "gpu-cold",
        "2.47 GB, Llama-3.2-1B shapes in bf16, onto the GPU, cold",
        "llama",
        (*_ONTO_GPU, READER),
        cold=True,
    ),
    GpuCase(
        "gpu-warm",
        "2.47 GB, Llama-3.2-1B shapes in bf16, onto the GPU, warm",
        "llama",
        (*_ONTO_GPU, "cache-read"),
        cold=False,
    ),
)
