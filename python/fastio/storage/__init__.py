"""Storages hold the small files and shards of roots: local folders, or whatever fits `protocol`."""
