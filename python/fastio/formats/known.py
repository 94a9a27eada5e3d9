"""The format of a file, by its first bytes: a parser for it, or advice.

Each format is one row of the table. A row with `locate` is a format that fastio loads. A message
about any other file names its format and says what to do.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

from fastio.catalog import Readable, Shard
from fastio.display.values import shown
from fastio.errors import FormatError
from fastio.formats import safetensors

_TEXT_SHOWN_BYTES = 60
_TAR_MAGIC_AT = 257
# Of a zip the first entry's name has its length at byte 26, and begins at byte 30.
_ZIP = b"PK\x03\x04"
# pickle.dumps(0x1950a86a20f9469cfc6c, 2), which torch.save began with before release 1.6.
_OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
# ModelProto: ir_version as a varint (field 1), then producer_name or a later field.
# https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
_ONNX = re.compile(rb"\x08[\x01-\x14][\x12\x1a\x22\x28\x3a\x42]", re.DOTALL)
_JSON = re.compile(rb"(?:\xef\xbb\xbf)?\s*[{\[]\s*[\"{}\[\]]")
_MARKUP = re.compile(rb"(?:\xef\xbb\xbf)?\s*<[!?/a-zA-Z]")


class Format(NamedTuple):
    """A format of files that people hand to a loader.

    Attributes
    ----------
    name : str
        With its article, as a message has it.
    way_on : str
        What reads it, or what to do about it.
    endings : tuple of str
        Of the names of such files, in lower case.
    has : callable
        Whether a file is one, by its first bytes.
    is_text : bool
        Whether its beginning tells a person what it is.
    locate : callable or None
        Given an open file and its first bytes, says where the tensors lie, as a `Shard`. None if
        fastio does not load the format.
    """

    name: str
    way_on: str
    endings: tuple[str, ...]
    has: Callable[[bytes], bool]
    is_text: bool = False
    locate: Callable[[Readable, bytes], Shard] | None = None


def _begins(*signatures: bytes) -> Callable[[bytes], bool]:
    return lambda first: first.startswith(signatures)


def _by(module: str, function: str = "locate") -> Callable[[Readable, bytes], Shard]:
    """A function of a module that is imported for its first file: all of them take long."""

    def locate(file: Readable, first: bytes) -> Shard:
        found = getattr(importlib.import_module(f"fastio.formats.{module}"), function)
        located: Shard = found(file, first)
        return located

    return locate


def _is_torch_zip(first: bytes) -> bool:
    return first.startswith(_ZIP) and b"/data.pkl" in first


def _is_npz(first: bytes) -> bool:
    name_bytes = int.from_bytes(first[26:28], "little")
    return first.startswith(_ZIP) and first[30 : 30 + name_bytes].endswith(b".npy")


def _is_tar(first: bytes) -> bool:
    return first.startswith(b"ustar", _TAR_MAGIC_AT)


def is_json(first: bytes) -> bool:
    """Return whether a file seems to be a JSON text, by its first bytes."""
    return _JSON.match(first) is not None


def _is_index(first: bytes) -> bool:
    return is_json(first) and b'"weight_map"' in first


def _is_text(first: bytes) -> bool:
    try:
        text = first[:_TEXT_SHOWN_BYTES].decode("ascii")
    except UnicodeDecodeError:
        return False
    return bool(text) and all(c.isprintable() or c in "\t\r\n" for c in text)


_THEN_SAVE = "fastio.save writes its tensors as safetensors"
_LOADED = f"fastio.load reads it, and {_THEN_SAVE}"

# The first line that fits is taken.
FORMATS: tuple[Format, ...] = (
    Format(
        "a safetensors file",
        "fastio.load reads it",
        (".safetensors",),
        safetensors.begins,
        locate=partial(safetensors.locate, keep_unsound=True),
    ),
    Format(
        "a Git LFS pointer",
        "git lfs pull fetches the file itself",
        (),
        _begins(b"version https://git-lfs", b"version https://hawser"),
    ),
    Format(
        "a PyTorch file (torch.save)",
        _LOADED,
        (".pt", ".pth", ".bin", ".ckpt", ".pt2"),
        _is_torch_zip,
        locate=_by("torch_files", "locate_zip"),
    ),
    Format(
        "a PyTorch pickle file (torch.save)",
        _LOADED,
        (),
        _begins(_OLD_TORCH),
        locate=_by("torch_files", "locate_old"),
    ),
    Format(
        "a NumPy .npz file",
        _LOADED,
        (".npz",),
        _is_npz,
        locate=_by("npz"),
    ),
    Format(
        "a NumPy .npy file",
        _LOADED,
        (".npy",),
        _begins(b"\x93NUMPY"),
        locate=_by("npy"),
    ),
    Format(
        "a zip file",
        "unpack it first",
        (".zip", ".keras"),
        _begins(_ZIP, b"PK\x05\x06"),
    ),
    Format(
        "a pickle file",
        f"what wrote it reads it (torch.load, joblib.load, pickle.load), and {_THEN_SAVE}",
        (".pkl", ".pickle", ".joblib"),
        _begins(b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"),
    ),
    Format(
        "a GGUF file",
        _LOADED,
        (".gguf",),
        _begins(b"GGUF"),
        locate=_by("gguf"),
    ),
    Format(
        "a GGML file",
        "llama.cpp converts it to GGUF",
        (".ggml",),
        _begins(b"lmgg", b"fmgg", b"tjgg", b"algg"),
    ),
    Format(
        "an HDF5 file",
        _LOADED,
        (".h5", ".hdf5"),
        _begins(b"\x89HDF\r\n\x1a\n"),
        locate=_by("hdf5"),
    ),
    Format(
        "a TensorFlow Lite file", "tensorflow reads it", (".tflite",), lambda f: f[4:8] == b"TFL3"
    ),
    Format("a Parquet file", "pyarrow reads it", (".parquet",), _begins(b"PAR1")),
    Format("an Arrow file", "pyarrow reads it", (".arrow", ".feather"), _begins(b"ARROW1")),
    Format("a gzip file", "gunzip it first", (".gz", ".tgz"), _begins(b"\x1f\x8b")),
    Format("a Zstandard file", "unzstd it first", (".zst",), _begins(b"\x28\xb5\x2f\xfd")),
    Format("an xz file", "unxz it first", (".xz",), _begins(b"\xfd7zXZ\0")),
    Format("a bzip2 file", "bunzip2 it first", (".bz2",), _begins(b"BZh")),
    Format("an LZ4 file", "unlz4 it first", (".lz4",), _begins(b"\x04\x22\x4d\x18")),
    Format("a 7-Zip file", "unpack it first", (".7z",), _begins(b"7z\xbc\xaf\x27\x1c")),
    Format("a tar file", "unpack it first", (".tar",), _is_tar),
    Format(
        "an HTML or XML page",
        "a download may have brought an error page, or one to log in: fetch the file again",
        (),
        lambda first: _MARKUP.match(first) is not None,
        is_text=True,
    ),
    Format(
        "an index of shards (JSON)",
        "fastio.load and fastio.open take it, or its folder, alone",
        (),
        _is_index,
    ),
    Format(
        "a JSON file",
        "a model's folder is loaded by the folder's path; an index of its shards has a weight_map",
        (),
        is_json,
        is_text=True,
    ),
    Format(
        "an ONNX file",
        f"onnx.load reads it, and {_THEN_SAVE}",
        (".onnx",),
        lambda first: _ONNX.match(first) is not None,
    ),
    Format(
        "a text file",
        "a download may have brought a message in place of the file: fetch it again",
        (),
        _is_text,
        is_text=True,
    ),
)
# Some formats have no first bytes of their own: a name tells them.
_BY_ENDING = (
    *((f.name, f.endings) for f in FORMATS if f.endings and f.name != "a safetensors file"),
    ("a TensorFlow checkpoint", (".ckpt.index", ".pb")),
    ("a Flax msgpack file", (".msgpack",)),
    ("a distributed checkpoint of PyTorch", (".distcp",)),
)


def locate(file: Readable) -> Shard:
    """Say where the tensors of a file lie, by the format that its content has.

    Parameters
    ----------
    file : Readable
        Stays open.

    Raises
    ------
    FormatError
        If the file is not valid, or has a format that fastio does not load: path, offset, expected.
    ReadError
        If reading fails.
    """
    first = safetensors.read_first(file)
    format = format_of(first)
    if format is not None and format.locate is not None:
        return format.locate(file, first)
    _refuse(file.path, first, format)
    return safetensors.locate(file, first, keep_unsound=True)  # which says what is wrong


def require_safetensors(file: Readable) -> None:
    """Refuse a file whose first bytes are those of another format.

    Raises
    ------
    FormatError
        Calls the format by its name, and says what reads it.
    ReadError
        If reading fails.
    """
    first = safetensors.read_first(file)
    if not safetensors.begins(first):
        _refuse(file.path, first, format_of(first))


def format_of(first: bytes) -> Format | None:
    """Return which format a file seems to have.

    Parameters
    ----------
    first : bytes
        Its first bytes, some hundred at least.
    """
    return next((format for format in FORMATS if format.has(first)), None)


def _refuse(path: str, first: bytes, format: Format | None) -> None:
    if first and not first.strip(b"\0"):
        raise FormatError(
            path,
            "gives its header 0 bytes: it begins with zeros, as a download that was cut off may",
            offset=0,
            expected="a safetensors file, and whole",
        )
    if format is None:
        return
    begins = ""
    if format.is_text:
        text = first[:_TEXT_SHOWN_BYTES].decode(errors="replace").strip().splitlines()
        begins = f", and begins {shown(text[0])}" if text else ""
    raise FormatError(
        path,
        f"is {format.name}, not safetensors{begins}",
        offset=0,
        expected=f"a safetensors file: {format.way_on}",
    )


def known_endings(names: Iterable[str]) -> dict[str, list[str]]:
    """Return which of some files have other formats, going by their names: files by format."""
    found: dict[str, list[str]] = {}
    for name in names:
        lower = name.lower()
        for format_name, endings in _BY_ENDING:
            if lower.endswith(endings):
                found.setdefault(format_name, []).append(name)
                break
    return found
