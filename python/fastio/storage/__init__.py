"""Where the small files and shards of a root lie: a folder, or whatever fits `protocol`."""
