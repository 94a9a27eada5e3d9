"""The calls that most users need: load, open, load_into, save."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, overload

from fastio.arguments.checks import Verify, check_kind, check_verify
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
    """Load tensors into memory, or onto devices, verified while they are read.

    Parameters
    ----------
    source : path or collection of paths
        A ``.safetensors`` file, several of them, a Hugging Face folder or its
        ``*.safetensors.index.json``; or a root of a store, whose newest generation is loaded. A
        path is a str, bytes or os.PathLike, and may begin with ``~`` or be a ``file:///`` address,
        unless there is a file of that very name. Several are any iterable of paths, as
        ``Path.glob`` gives one; they are taken in its order, those of a set sorted.
    framework : {"numpy", "torch", "jax", "tensorflow", "mlx", "paddle"}
        What the tensors are. bf16, fp8 come as ml_dtypes in numpy; packed fp4 as uint8 of half the
        last axis.
    names : collection of str, optional
        Load only these; the result has them in this order. Default: all, in file order.
    verify : bool or "require"
        True compares the checksums of files that carry them (`fastio.seal` adds them) and says in
        the report which ones do not. "require" refuses such files. False reads only: a header need
        but be valid, and checksums that do not fit it are told of.
    options : Options, optional
        How it is done; the default fits most machines.
    progress : bool
        Show a progress bar: bytes, speed, time left. What is no terminal gets one line at the end.
    report : Report, optional
        Filled with what was done, how fast, and why so.
    device : str, int or torch.device, optional
        With torch: where the tensors go. What goes to CUDA is read into pinned memory, verified
        there, and copied while the rest is read; no host copy of the model is made.
        Default: the CPU.
    device_map : mapping of str to device, optional
        In place of `device`: for a tensor or a module, by its name, where it goes; the longest name
        wins, and "" is for all that is left.
    stream : object, optional
        The CUDA stream that the load comes behind: an object with ``__cuda_stream__``, or the
        driver's handle. Default: torch's current one.

    Returns
    -------
    dict of str to array
        Each tensor owns its memory, writable, aligned for its dtype.

    Raises
    ------
    FileNotFoundError, IsADirectoryError
        The source is not there, or a shard that an index names; a folder in a list.
    FormatError
        A file that is not what it says, or whose checksums do not fit its header, unless
        ``verify=False``: path, offset, what was expected. Also with
        ``verify="require"`` a file that carries no checksums, and a tensor whose name occurs in two
        files.
    ChecksumError
        Bytes that are not those that were saved: path, chunk, extent, tensors.
    ReadError
        A read that failed: errno, path, offset.
    TensorNotFoundError
        A name that no file has, with close matches.
    ReplicaError
        A store of which no replica of some bytes is left, or too few roots: each with its reason.
    MemoryLimitError
        More bytes than ``options.memory_limit_bytes``; nothing was read.
    DeviceError
        What the driver of a device refused.
    MemoryError
        A device, or the host, without memory; nothing was read.
    TypeError, ValueError
        An argument that is none of the above, or a dtype that the framework cannot hold.
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
    """Start to load tensors into memory, or onto devices, and return while they are read.

    What is wrong with the source or the arguments, and memory that cannot be had, is raised at
    once. Tensors in host memory share ranges of up to 256 MiB, which are freed with the last
    tensor in them.

    Parameters
    ----------
    source, framework, names, verify, options, report, device, device_map, stream
        As `load` takes them.

    Returns
    -------
    LoadHandle
        Its ``wait()`` returns the tensors, and ``queued()`` does so before the last copy to a
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
    """Open a source; tensors are read when they are asked for.

    Parameters
    ----------
    source : path or collection of paths
        As `fastio.load` takes it.
    framework : {"numpy", "torch"}
    verify : bool or "require"
        As `fastio.load` takes it. A part of a tensor is verified by the whole chunks around it.
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
        An argument that is none of the above.
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
    """Fill arrays and tensors that exist, verified while they are read.

    Everything is checked before the first byte. There is no second copy of the model. Memory is
    read straight into, if its address is congruent to the offset in the file, modulo what O_DIRECT
    needs (mostly 512 bytes). All other memory is filled by way of ``lanes * queue_depth`` blocks,
    which `Options.memory_limit_bytes` bounds. So is what comes from a store, whose roots may hang.

    Parameters
    ----------
    source : path or collection of paths
        As `fastio.load` takes it.
    tensors : mapping of str to numpy.ndarray or torch.Tensor
        By name; of the dtype and the shape in the file (packed F4: half of its last axis), with any
        strides, writable, on the CPU or a CUDA device (which is filled by way of pinned memory).
        None may overlap another, except that two names may be the same memory, as a model's tied
        parameters are, or one a range of the other's: it is filled once, and the source may lack
        the name of the range.
    verify : bool or "require"
        As `fastio.load` takes it.
    strict : bool
        Whether `tensors` must have every name of the source. Names that the source lacks are
        refused always, unless another name of the same memory is there.
    options : Options, optional
    progress : bool
        Show a progress bar.
    report : Report, optional
        Filled with what was done.

    Raises
    ------
    TensorNotFoundError
        A name that the source has not.
    TypeError, ValueError
        A tensor that cannot be filled; with `strict` a missing name; two names of the same memory
        for which the source has different bytes. Nothing was written.
    FileNotFoundError, IsADirectoryError, FormatError
        As `fastio.load` does; nothing was written.
    ChecksumError, ReadError
        It failed midway. No byte that was not verified is left in the tensors, but what they hold
        is undefined, except for those that the error lists in `complete`.
    DeviceError
        What the driver of a device refused; midway, it is as with the two above.
    MemoryLimitError
        A limit below one block; nothing was written.
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
    """Read every byte of sealed files past the page cache, and say which ones are damaged.

    Damage is what this looks for, so it is no exception: the result lists all damaged ranges of
    all files. A file that cannot be read, is not valid, or that an index names and is not there, is
    damaged, too. Of files without checksums only the header is checked.

    Parameters
    ----------
    source : path or collection of paths
        As `fastio.load` takes it: a file, several of them, a folder or an index. Of a root of a
        store every replica on every root is verified, as `Store.verify` does.
    options : Options, optional
        Engine, lanes, queue depth and block size. Memory stays within 128 MiB whatever they say,
        and within ``memory_limit_bytes``.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Verification
        Its `ok` says whether nothing is damaged.

    Raises
    ------
    FileNotFoundError
        If the source is not there, or one of several files.
    IsADirectoryError
        If one of several files is a folder.
    FormatError
        An index that is not valid; a folder without safetensors files.
    ReadError
        If a folder or an index cannot be read.
    ReplicaError
        As `Store.open` does.
    MemoryLimitError
        If ``memory_limit_bytes`` is less than a chunk.
    TypeError, ValueError
        If an argument is none of the above.

    Examples
    --------
    >>> found = fastio.verify("model.safetensors")
    >>> if not found.ok:
    ...     print(found)
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
