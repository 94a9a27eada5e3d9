"""liburing, as csrc/uring_cdef.py declares it to cffi; python/fastio/uring/ is its only user."""

from typing import Any

ffi: Any  # cffi's FFI, of the compiled kind
lib: Any  # the functions; each releases the GIL
