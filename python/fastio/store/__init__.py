"""Tensors kept on several devices: generations, replicas, and a commit that is there or not."""

IDENTITY = "fastio-root.json"
"""The file that says that a folder is a root of a store."""
