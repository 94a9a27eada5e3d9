"""Benchmarks: each suite answers one question, with its rivals and its limit in the same run."""
