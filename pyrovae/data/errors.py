"""What is wrong with data."""


class DataError(Exception):
    """Data that is missing, damaged, or not what the model can score."""
