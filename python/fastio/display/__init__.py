"""Output for people: values in a line of text, tables in HTML, progress bars, close matches."""
