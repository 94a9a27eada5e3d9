"""The suites: each answers one question."""
