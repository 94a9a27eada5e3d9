"""Result files, targets, tables and pictures."""
