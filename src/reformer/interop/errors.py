"""The error of every conversion."""


class ConversionError(ValueError):
    """A model that cannot be converted; the message names the field, tensor or file, and why."""
