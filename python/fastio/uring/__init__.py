"""io_uring for Python, through liburing: `Ring`.

This package shares only liburing with the engines of `fastio.load`, so it can check them. Importing
it raises ImportError if fastio was built without liburing.
"""

try:
    from fastio.uring.queue import Completion
    from fastio.uring.ring import Ring
except ImportError as error:
    raise ImportError(
        f"fastio.uring is not available ({error}): fastio was built without liburing, or cffi is "
        "missing. Install cffi and liburing-dev (Debian, Ubuntu) or liburing-devel (Fedora), and "
        "build fastio again. Loading works without.",
        name=error.name,
    ) from error

__all__ = ["Completion", "Ring"]


def __dir__() -> list[str]:
    return sorted(__all__)
