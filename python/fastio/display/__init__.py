"""What people see: values in a line of text, tables in HTML, progress bars, close matches."""
