"""Checks of arguments and variables: paths, sizes, switches."""
