"""How tensors get into files: checked, laid out, written, and put in place."""
