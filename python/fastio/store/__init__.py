"""Tensors on several disks: generations, replicas, and atomic commits."""

__all__ = ["IDENTITY"]

IDENTITY = "fastio-root.json"
"""The file that says that a folder is a root of a store."""


def __dir__() -> list[str]:
    return sorted(__all__)
