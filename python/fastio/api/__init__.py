"""The calls that most users need: load, open, load_into, save."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, overload

from fastio.arguments.checks import check_kind
from fastio.arguments.paths import Source, paths_of
from fastio.frameworks import FrameworkName, NumpyName, TorchName
from fastio.frameworks.handed import check_mapping
from fastio.locate import anchored_if_several, is_root, locate, locate_again, root_among
from fastio.options import Options
from fastio.reading import verification
from fastio.reading.findings import Verification
from fastio.reading.handle import LoadHandle
from fastio.reading.into import fill
from fastio.reading.load import Load, To
from fastio.reading.reader import Reader
from fastio.reading.verification import Verify, check_verify
from fastio.reading.verify import verify as verify_files
from fastio.report import Report
from fastio.saving.save import save, start_save

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

__all__ = ["load", "load_into", "open", "save", "start_load", "start_save", "verify"]


@overload
def load(
    source: Source,
    *,
    framework: NumpyName = "numpy",
    names: Collection[str] | None = None,
    verify: Verify = True,
    options: Options | None = None,
    progress: bool = False,
    report: Report | None = None,
    device: Any = None,
    device_map: Mapping[str, Any] | None = None,
    stream: Any = None,
) -> dict[str, npt.NDArray[Any]]: ...


@overload
def load(
    source: Source,
    *,
    framework: TorchName,
    names: Collection[str] | None = None,
    verify: Verify = True,
    options: Options | None = None,
    progress: bool = False,
    report: Report | None = None,
    device: Any = None,
    device_map: Mapping[str, Any] | None = None,
    stream: Any = None,
) -> dict[str, torch.Tensor]: ...


@overload
def load(
    source: Source,
    *,
    framework: FrameworkName,
    names: Collection[str] | None = None,
    verify: Verify = True,
    options: Options | None = None,
    progress: bool = False,
    report: Report | None = None,
    device: Any = None,
    device_map: Mapping[str, Any] | None = None,
    stream: Any = None,
) -> dict[str, Any]: ...


def load(
    source: Source,
    *,
    framework: FrameworkName = "numpy",
    names: Collection[str] | None = None,
    verify: Verify = True,
    options: Options | None = None,
    progress: bool = False,
    report: Report | None = None,
    device: Any = None,
    device_map: Mapping[str, Any] | None = None,
    stream: Any = None,
) -> dict[str, Any]:
    """Load tensors into memory or onto devices, and verify every byte while it is read.

    Parameters
    ----------
    source : path or collection of paths
        A ``.safetensors`` file, several of them, a Hugging Face folder, its
        ``*.safetensors.index.json``, or a root of a store, whose newest generation is loaded. A
        path is a str, bytes or os.PathLike. It may begin with ``~`` or be a ``file:///`` address,
        unless a file has exactly that name. Several paths keep their order; a set is sorted.
    framework : {"numpy", "torch", "jax", "tensorflow", "mlx", "paddle"}
        The type of the tensors. numpy gets bf16 and fp8 as ml_dtypes, and packed fp4 as uint8 of
        half the last axis.
    names : collection of str, optional
        Load only these, in this order. Default: all, in file order.
    verify : bool or "require"
        True compares the checksums of sealed files (see `fastio.seal`); the report names the other
        files. "require" refuses those. False checks headers only, and reports checksums that do
        not fit their header.
    options : Options, optional
        The default fits most machines.
    progress : bool
        Show a progress bar: bytes, speed, time left. A log file gets one line at the end.
    report : Report, optional
        Filled with engine, page cache, speed, verified chunks, and the reasons.
    device : str, int or torch.device, optional
        Where torch tensors go. Bytes for CUDA are read into pinned memory, verified there, and
        copied while the rest is read. The host holds no copy of the model. Default: the CPU.
    device_map : mapping of str to device, optional
        Replaces `device`: the device of a tensor or a module, by its name. The longest name wins;
        "" is for all others.
    stream : object, optional
        The copies wait for the work that is in this CUDA stream: an object with
        ``__cuda_stream__``, or the driver's handle. Default: torch's current stream.

    Returns
    -------
    dict of str to array
        Each tensor owns its memory, is writable, and is aligned for its dtype.

    Raises
    ------
    FileNotFoundError, IsADirectoryError
        The source, or a shard that an index names, is missing; a folder in a list.
    FormatError
        An invalid file: path, offset, expected value. Checksums that do not fit the header, unless
        ``verify=False``. A file without checksums, with ``verify="require"``. A tensor name that
        two files have. An encoded tensor that cannot be decoded.
    ChecksumError
        Bytes that differ from the saved ones: path, chunk, extent, tensors.
    ReadError
        A failed read: errno, path, offset.
    TensorNotFoundError
        A name that no file has, with close matches.
    ReplicaError
        Some bytes of a store have no good replica, or too few roots answer: each with its reason.
    MemoryLimitError
        More bytes than ``options.memory_limit_bytes``; nothing was read.
    DeviceError
        The driver of a device refused a call.
    MemoryError
        A device, or the host, has too little memory; nothing was read.
    TypeError, ValueError
        An invalid argument, or a dtype that the framework lacks.

    Examples
    --------
    >>> fastio.load("model.safetensors", names=["bias"])
    {'bias': array([0., 0., 0.], dtype=float32)}
    """
    begun = Load(
        lambda wanted: verification.sound(locate(source, wanted, options), verify),
        framework=framework,
        names=names,
        verify=verify,
        options=options,
        report=report,
        to=To(device, device_map, stream),
    )
    return begun.now(progress=progress)


def start_load(
    source: Source,
    *,
    framework: FrameworkName = "numpy",
    names: Collection[str] | None = None,
    verify: Verify = True,
    options: Options | None = None,
    report: Report | None = None,
    device: Any = None,
    device_map: Mapping[str, Any] | None = None,
    stream: Any = None,
) -> LoadHandle:
    """Start to load tensors into memory or onto devices, and return while they are read.

    An invalid source or argument, or too little memory, raises at the call. Tensors in host memory
    share ranges of up to 256 MiB. A range is freed with its last tensor.

    Parameters
    ----------
    source, framework, names, verify, options, report, device, device_map, stream
        As `load` takes them.

    Returns
    -------
    LoadHandle
        Its ``wait()`` returns the tensors. Its ``queued()`` returns them before the last copy to a
        device is done.

    Raises
    ------
    As `load` does, for all that is found before the first byte is read.

    Examples
    --------
    >>> handle = fastio.start_load("model.safetensors")
    >>> sorted(handle.wait())
    ['bias', 'weight']
    """
    return LoadHandle(
        Load(
            lambda wanted: verification.sound(locate(source, wanted, options), verify),
            framework=framework,
            names=names,
            verify=verify,
            options=options,
            report=report,
            to=To(device, device_map, stream),
        )
    )


def open(
    source: Source,
    *,
    framework: FrameworkName = "numpy",
    verify: Verify = True,
    options: Options | None = None,
) -> Reader:
    """Open a source, and read each tensor when it is asked for.

    Parameters
    ----------
    source : path or collection of paths
        As `fastio.load` takes it.
    framework : {"numpy", "torch"}
    verify : bool or "require"
        As `fastio.load` takes it. Part of a tensor is verified by the whole chunks around it.
    options : Options, optional

    Returns
    -------
    Reader
        A context manager: ``reader[name][10:20]``, ``reader.read(names)``, ``reader.load()``,
        ``reader.stream()``.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, FormatError, ReadError
        As `fastio.load` does.
    TypeError, ValueError
        An invalid argument.

    Examples
    --------
    >>> with fastio.open("model.safetensors") as reader:
    ...     reader["weight"][:, 1]
    array([1., 4.], dtype=float32)
    """
    return Reader(
        partial(locate_again, source), framework=framework, verify=verify, options=options
    )


def load_into(
    source: Source,
    tensors: Mapping[str, Any],
    *,
    verify: Verify = True,
    strict: bool = True,
    options: Options | None = None,
    progress: bool = False,
    report: Report | None = None,
) -> None:
    """Fill existing arrays and tensors, and verify every byte while it is read.

    All arguments are checked before the first byte is read. No second copy of the model is made.
    O_DIRECT reads into a tensor if its address and its file offset are equal modulo the alignment
    of O_DIRECT, mostly 512 bytes. Other tensors, and those of a store, whose roots may hang, are
    filled from ``lanes * queue_depth`` blocks. `Options.memory_limit_bytes` bounds these.

    Parameters
    ----------
    source : path or collection of paths
        As `fastio.load` takes it.
    tensors : mapping of str to numpy.ndarray or torch.Tensor
        By name; writable, with the dtype and shape of the file (packed F4: half the last axis) and
        any strides, on the CPU or a CUDA device. Tensors must not overlap, with one exception: two
        names may be the same memory, as tied parameters are, or one a range of the other. That
        memory is filled once, and the source may lack the name of the range.
    verify : bool or "require"
        As `fastio.load` takes it.
    strict : bool
        Whether `tensors` must have every name of the source. A name that the source lacks is
        refused, unless another name of the same memory is there.
    options, progress, report
        As `fastio.load` takes them.

    Raises
    ------
    TensorNotFoundError
        A name that the source lacks.
    TypeError, ValueError
        A tensor that cannot be filled; with `strict` a missing name; two names of one memory whose
        bytes differ in the source. Nothing was written.
    FileNotFoundError, IsADirectoryError, FormatError
        As `fastio.load` does; nothing was written.
    ChecksumError, ReadError; FormatError of an encoded tensor
        The load failed midway. The tensors hold no unverified byte. Their contents are undefined,
        except for the tensors that the error lists in `complete`.
    DeviceError
        The driver of a device refused a call; midway, as for the two above.
    MemoryLimitError
        A limit below one block; nothing was written.

    Examples
    --------
    >>> bias = np.ones(3, np.float32)
    >>> fastio.load_into("model.safetensors", {"bias": bias}, strict=False)
    >>> bias
    array([0., 0., 0.], dtype=float32)
    """
    check_verify(verify)
    check_kind("options", options, Options)
    check_kind("report", report, Report)
    check_mapping(tensors)
    options = options if options is not None else Options()
    wanted = tuple(tensors) if not strict else None
    fill(
        lambda: verification.sound(locate(source, wanted, options), verify),
        tensors,
        verify=verify,
        strict=strict,
        options=options,
        progress=progress,
        report=report if report is not None else Report(),
    )


def verify(
    source: Source, *, options: Options | None = None, progress: bool = False
) -> Verification:
    """Read every byte of sealed files past the page cache, and list the damage.

    Damage is a result and raises nothing: the result lists all damaged ranges of all files. A file
    that is invalid, unreadable, or missing from its index's folder is damaged, too. Files without
    checksums get their headers checked.

    Parameters
    ----------
    source : path or collection of paths
        As `fastio.load` takes it. For a root of a store, every replica on every root is verified,
        as `Store.verify` does.
    options : Options, optional
        Engine, lanes, queue depth and block size. Memory stays within 128 MiB and within
        ``memory_limit_bytes``.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Verification
        Its `ok` is True if nothing is damaged.

    Raises
    ------
    FileNotFoundError, IsADirectoryError
        The source or one of several files is missing; one of several files is a folder.
    FormatError, ReadError
        An index that is invalid or cannot be read; a folder without safetensors files.
    ReplicaError
        As `Store.open` does.
    MemoryLimitError
        ``memory_limit_bytes`` is less than a chunk.
    TypeError, ValueError
        An invalid argument.

    Examples
    --------
    >>> found = fastio.verify("model.safetensors")
    >>> found.ok, found.damaged
    (True, ())
    """
    check_kind("options", options, Options)
    paths = paths_of(source)
    if isinstance(paths, str) and is_root(paths):
        from fastio.store.store import Store  # takes longer to import than most need it

        with Store.open(paths) as store:
            return store.verify(options=options, progress=progress)
    paths = anchored_if_several(paths)
    try:
        return verify_files(paths, options=options, progress=progress)
    except IsADirectoryError as error:
        raise root_among(paths, error) from None
