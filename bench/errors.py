"""The error of a measurement, in a module that imports nothing."""


class MeasureError(RuntimeError):
    """A measurement failed or cannot be believed."""
