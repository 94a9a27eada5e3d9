"""Prints the download size of an installation before pip starts it: `download_size.py REPORT WHAT`.

REPORT is the output of `pip install --dry-run --report`. pip does not print sizes, so each server
is asked for the length of its file.
"""

import json
import sys
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_TIMEOUT_S = 20
_CUDA_PREFIXES = ("nvidia-", "cuda-")


def _nbytes(url: str) -> int | None:
    """The length of a file; None if its server does not send it."""
    parts = urllib.parse.urlsplit(url)
    try:
        if parts.scheme == "file":
            return Path(urllib.request.url2pathname(parts.path)).stat().st_size
        asked = urllib.request.Request(url, method="HEAD")
        with urllib.request.urlopen(asked, timeout=_TIMEOUT_S) as answer:
            return int(answer.headers["Content-Length"])
    except (OSError, TypeError, ValueError):
        return None


def _main() -> None:
    report, what = sys.argv[1:]
    chosen = json.loads(Path(report).read_text(encoding="utf-8"))["install"]
    names = [package["metadata"]["name"] for package in chosen]
    with ThreadPoolExecutor(16) as pool:
        sizes = list(pool.map(_nbytes, [package["download_info"]["url"] for package in chosen]))
    known = [nbytes for nbytes in sizes if nbytes is not None]
    cuda = sum(name.lower().startswith(_CUDA_PREFIXES) for name in names)
    if cuda:
        what += f" with CUDA ({cuda} packages of its libraries)"
    gigabytes = sum(known) / 1e9
    least = "at least " if len(known) < len(sizes) else ""
    print(
        f"Installing {what}: {least}{gigabytes:.1f} GB to download, two to four times that on disk",
        flush=True,
    )


_main()
