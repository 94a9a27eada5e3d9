"""The error of a measurement, apart from all else: who prepares one imports little."""


class MeasureError(RuntimeError):
    """A measurement failed or cannot be believed."""
