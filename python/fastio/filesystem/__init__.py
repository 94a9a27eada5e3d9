"""Calls of a save that a filesystem may lack, and the ways around them."""
