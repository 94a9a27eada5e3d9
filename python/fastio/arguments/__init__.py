"""What people type, made sure of: paths, sizes, switches, names of variables."""
