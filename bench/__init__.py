"""Benchmarks: one script a question, its baselines beside it.

They are run as modules from the project's root (`python -m bench.load`); README.md says which
answers what, and how.
"""
