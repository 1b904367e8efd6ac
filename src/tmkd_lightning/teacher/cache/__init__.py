"""Cache of a teacher's outputs on disk: a folder a fingerprint, an array file a part of the output."""

from tmkd_lightning.teacher.cache.array_file import ArrayFile, CacheError
from tmkd_lightning.teacher.cache.folder import CacheFolder

__all__ = ["ArrayFile", "CacheError", "CacheFolder"]
