"""Messages about missing paths: the path that was perhaps meant, and what to do."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Iterable

from fastio.display.matches import close_matches
from fastio.display.values import shown

_NEIGHBOURS_MAX = 10_000  # names of a folder that are compared with the one that is missing
_MATCHES_MAX = 3
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", re.DOTALL)
_HUB_URL = re.compile(r"(?:www\.)?(?:huggingface\.co|hf\.co)/(.*)", re.DOTALL)
_HUB_PAGE = re.compile(r"(?:/(?:resolve|blob|raw|tree)/[^/]+)?")
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")
_VARIABLE = re.compile(r"\$(?:[A-Za-z_]\w*|\{\w+\})")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[\w.-]+)?", re.ASCII)
_INSIDE_A_FILE = re.compile(r"(.+?\.(?:safetensors|json))(?:::?|#|@|/)(.+)", re.DOTALL)
_FILE = re.compile(r"\.(?:safetensors|json|bin|pt|pth|ckpt|npz|gguf|h5)$", re.IGNORECASE)
_COPIES_BY = {
    "s3": "aws s3 cp",
    "gs": "gcloud storage cp",
    "gcs": "gcloud storage cp",
    "az": "azcopy copy",
    "abfs": "azcopy copy",
    "abfss": "azcopy copy",
    "hdfs": "hdfs dfs -get",
    "http": "curl -LO",
    "https": "curl -LO",
    "ftp": "curl -O",
    "ssh": "scp",
    "sftp": "scp",
}


def advice_to_read(path: str) -> str:
    """Return what to do about a source that is not there; nothing where nothing comes to mind.

    Raises
    ------
    Nothing.
    """
    if not path:
        return "the path is empty"
    with contextlib.suppress(OSError):
        return f"it is a link to {shown(os.readlink(path))}, which is not there"
    found = (
        _of_address(path, reads=True)
        or _of_windows(path)
        or _of_tensor(path)
        or _of_shell(path)
        or _of_pattern(path)
    )
    if found:
        return found
    with contextlib.suppress(OSError):  # the current folder may be gone
        return "; ".join(filter(None, (_of_neighbours(path), _of_hub(path))))
    return ""


def advice_to_write(path: str) -> str:
    """Return why nothing can be meant to be written there; nothing where something can.

    Raises
    ------
    Nothing.
    """
    if not path:
        return "the path is empty"
    found = _of_address(path, reads=False) or _of_windows(path) or _of_shell(path)
    if not found or os.path.lexists(path):
        return ""
    # An existing folder called `s3:` is meant.
    folder = os.path.dirname(path.rstrip("/"))
    return "" if folder and os.path.isdir(folder) else found


def _of_address(path: str, *, reads: bool) -> str:
    url = _URL.fullmatch(path)
    if url is None:
        return ""
    scheme, rest = url[1].lower(), url[2]
    if scheme == "file":
        return "only file: addresses of this host are taken: file:///path, percent-encoded"
    if not reads:
        return f"{scheme}:// is an address, and no path: save to a file, and copy that there"
    page = _HUB_URL.fullmatch(rest)
    if page is not None or scheme == "hf":
        return _of_repository(page[1] if page is not None else rest)
    way = _COPIES_BY.get(scheme)
    by = f" ({way})" if way else ""
    return f"{scheme}:// is an address, and no path: copy it to a disk first{by}, or mount it"


def _of_repository(rest: str) -> str:
    """The way on from a page of the Hugging Face hub, or from a path of hf://."""
    rest = rest.partition("?")[0].strip("/")
    owner, _, after = rest.partition("/")
    name, _, inside = after.partition("/")
    model = f"{owner}/{name.partition('@')[0]}"
    if page := _HUB_PAGE.match("/" + inside):
        inside = ("/" + inside)[page.end() :].strip("/")
    if "." in os.path.basename(inside):
        asked = f"{_quoted(model)}, {_quoted(inside)}"
        return f"huggingface_hub.hf_hub_download({asked}) gives a path that load takes"
    return _snapshot(model)


def _of_windows(path: str) -> str:
    if _WINDOWS.match(path) is None:
        return ""
    return "it is a path of Windows; WSL has drive C: at /mnt/c"


def _of_tensor(path: str) -> str:
    parts = _INSIDE_A_FILE.fullmatch(path)
    if parts is None or not os.path.isfile(parts[1]):
        return ""
    return f"{shown(parts[1])} is there: names=[{shown(parts[2])}] loads that tensor of it"


def _of_shell(path: str) -> str:
    variable = _VARIABLE.search(path)
    if variable is not None:
        return f"{variable[0]} is not expanded: os.path.expandvars(path) does that"
    user, _, rest = path.partition("/")
    if user.startswith("~") and len(user) > 1 and rest:
        return f"there is no user {shown(user[1:])}"
    return ""


def _of_pattern(path: str) -> str:
    if not re.search(r"[*?]|\[[^]]+\]", path):
        return ""
    return "patterns are not expanded: sorted(glob.glob(path)) is a list that load takes"


def _of_neighbours(path: str) -> str:
    """Which folder is missing, or what is there that has a name like the last one."""
    missing = whole = os.path.abspath(path)
    while not os.path.lexists(folder := os.path.dirname(missing)):
        missing = folder
    try:
        with os.scandir(folder) as entries:
            names = {e.name.lower(): e.name for e in itertools.islice(entries, _NEIGHBOURS_MAX)}
    except NotADirectoryError:
        return f"{shown(folder)} is no folder"
    alike = _alike(os.path.basename(missing).strip(" \t\r\n'\"").lower(), names)
    what = f"there is no folder {shown(missing)}" if missing != whole else ""
    if alike:
        what += ("; " if what else "") + f"did you mean {_any_of(names[each] for each in alike)}?"
    elif not what and not os.path.isabs(path):
        what = f"looked for in {shown(folder)}"
    return what


def _alike(name: str, names: Iterable[str]) -> list[str]:
    """Names that go on where this one ends, then those of the same ending that are like it."""
    stem, ending = os.path.splitext(name)
    stems = [other.removesuffix(ending) for other in names if other.endswith(ending)]
    longer = [other for other in names if other.startswith(f"{name}.")]
    alike = [match + ending for match in close_matches(stem, stems)] or close_matches(name, names)
    return list(dict.fromkeys((*longer, *alike)))[:_MATCHES_MAX]


def _any_of(names: Iterable[str]) -> str:
    return " or ".join(map(shown, names))


def _of_hub(path: str) -> str:
    """Advice for a name that a model of the Hugging Face hub may have, or a file of one."""
    owner, *inside = path.split("/", 2)
    if os.path.lexists(owner):
        return ""
    if len(inside) == 2 and _REPOSITORY.fullmatch(f"{owner}/{inside[0]}"):
        way = _of_repository(path)
    elif len(inside) < 2 and _REPOSITORY.fullmatch(path) and not _FILE.search(path):
        way = _snapshot(path)
    else:
        return ""
    return f"if it is a model of the Hugging Face hub, {way}"


def _snapshot(model: str) -> str:
    return f"huggingface_hub.snapshot_download({_quoted(model)}) gives a folder that load takes"


def _quoted(text: str) -> str:
    """Text as code has it; `shown` cuts what is too long."""
    return shown(text).replace("'", '"')
