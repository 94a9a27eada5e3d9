"""How figures are taken: caches, memory, machines, rounds, limits, fresh processes."""
