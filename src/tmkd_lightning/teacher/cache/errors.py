"""The error that concerns stored outputs."""


class CacheError(RuntimeError):
    """Stored outputs of a teacher cannot be used, made or kept; the message names the file and what would help."""
