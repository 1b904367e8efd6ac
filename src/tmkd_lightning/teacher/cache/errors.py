"""The error of the teacher cache."""


class CacheError(RuntimeError):
    """A teacher's outputs cannot be stored or read; the message names the file and a remedy."""
