"""What can be wrong with data, named once."""

from __future__ import annotations


class DataError(ValueError):
    """Data that cannot be used; the message names the file or folder and what would help."""
