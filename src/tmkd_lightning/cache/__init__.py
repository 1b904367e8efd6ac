"""What a teacher said, kept on disk: one array a kind, found again by what it follows from."""

from tmkd_lightning.cache.errors import CacheError
from tmkd_lightning.cache.folder import CacheFolder
from tmkd_lightning.cache.rows import RowFile

__all__ = ["CacheError", "CacheFolder", "RowFile"]
