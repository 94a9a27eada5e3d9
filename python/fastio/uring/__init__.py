"""io_uring in the caller's hands, through liburing: `Ring`.

It shares nothing but liburing with the engines that `fastio.load` reads with, and so gives a second
opinion on them. Importing it raises ImportError where fastio was built without liburing.
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
