"""The calls that most users need: load, open, load_into, save."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Literal, overload

from fastio import verification
from fastio.fill import load_into
from fastio.frameworks import FrameworkName, NumpyName, TorchName
from fastio.locate import locate
from fastio.options import Options
from fastio.paths import Source
from fastio.reader import open
from fastio.report import Report
from fastio.save import save
from fastio.whole import Load, LoadHandle, To

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

__all__ = ["load", "load_into", "open", "save"]


@overload
def load(
    source: Source,
    *,
    framework: NumpyName = "numpy",
    names: Collection[str] | None = None,
    verify: bool | Literal["require"] = True,
    options: Options | None = None,
    progress: bool = False,
    report: Report | None = None,
    device: Any = None,
    device_map: Mapping[str, Any] | None = None,
    stream: Any = None,
    wait: Literal[True] = True,
) -> dict[str, npt.NDArray[Any]]: ...


@overload
def load(
    source: Source,
    *,
    framework: TorchName,
    names: Collection[str] | None = None,
    verify: bool | Literal["require"] = True,
    options: Options | None = None,
    progress: bool = False,
    report: Report | None = None,
    device: Any = None,
    device_map: Mapping[str, Any] | None = None,
    stream: Any = None,
    wait: Literal[True] = True,
) -> dict[str, torch.Tensor]: ...


@overload
def load(
    source: Source,
    *,
    framework: FrameworkName,
    names: Collection[str] | None = None,
    verify: bool | Literal["require"] = True,
    options: Options | None = None,
    progress: bool = False,
    report: Report | None = None,
    device: Any = None,
    device_map: Mapping[str, Any] | None = None,
    stream: Any = None,
    wait: Literal[True] = True,
) -> dict[str, Any]: ...


@overload
def load(
    source: Source,
    *,
    framework: FrameworkName = "numpy",
    names: Collection[str] | None = None,
    verify: bool | Literal["require"] = True,
    options: Options | None = None,
    progress: bool = False,
    report: Report | None = None,
    device: Any = None,
    device_map: Mapping[str, Any] | None = None,
    stream: Any = None,
    wait: Literal[False],
) -> LoadHandle: ...


def load(
    source: Source,
    *,
    framework: FrameworkName = "numpy",
    names: Collection[str] | None = None,
    verify: bool | Literal["require"] = True,
    options: Options | None = None,
    progress: bool = False,
    report: Report | None = None,
    device: Any = None,
    device_map: Mapping[str, Any] | None = None,
    stream: Any = None,
    wait: bool = True,
) -> dict[str, Any] | LoadHandle:
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
    wait : bool
        False returns a handle at once, of a load to a device.

    Returns
    -------
    dict of str to array, or LoadHandle
        Each tensor owns its memory, writable, aligned for its dtype. With ``wait=False`` a handle
        whose ``wait()`` returns them, or ``queued()`` before the last copy is done.

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
        A store of which no copy of some bytes is left, or too few roots: each with its reason.
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
    return begun.now(progress=progress) if wait else LoadHandle(begun)
