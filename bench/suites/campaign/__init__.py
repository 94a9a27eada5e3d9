"""How a suite is run: its command line, its cases, their rounds."""
