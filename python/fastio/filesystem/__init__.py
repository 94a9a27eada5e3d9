"""What is asked of a filesystem while a file is saved, and what is done where it cannot."""
