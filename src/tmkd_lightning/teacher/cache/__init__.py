"""What a teacher said, kept on disk: one array a kind, found again by what it follows from."""

from tmkd_lightning.teacher.cache.array_file import RowFile
from tmkd_lightning.teacher.cache.errors import CacheError
from tmkd_lightning.teacher.cache.folder import CacheFolder

__all__ = ["CacheError", "CacheFolder", "RowFile"]
