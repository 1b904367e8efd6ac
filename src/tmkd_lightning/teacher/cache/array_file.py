"""An array on disk that several processes fill row by row in any order, and that survives being killed."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from tmkd_lightning.utils.progress import progress


class CacheError(RuntimeError):
    """A teacher's outputs cannot be stored or read; the message names the file and a remedy."""


class ArrayFile:
    """Two files in NumPy's format: the rows, and a checksum a row, which is 0 until the row is written.

    A row is written before its checksum and counts only if the two agree, so that nothing half written is read. No
    mapped memory: a full disk would kill the process, and machines that share a file overwrite each other's rows.

    Args:
        path: of the array, ``.npy``.

    Example:
        >>> import tempfile
        >>> file = ArrayFile.create(Path(tempfile.mkdtemp()) / "array.npy", rows=3, shape=(2,), dtype="float32")
        >>> file.write(np.array([2]), np.array([[5.0, 6.0]]))
        >>> file.read(np.array([2])).tolist(), file.read(np.array([1, 2])), file.written
        ([[5.0, 6.0]], None, 1)
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._values = _Records(path)
        self._checksums = _Records(_checksums_of(path))
        self.rows, self.shape, self.dtype = self._values.count, self._values.shape, self._values.dtype
        checksums = self._checksums
        if (checksums.count, checksums.shape, checksums.dtype) != (self.rows, (), np.dtype(np.uint32)):
            raise CacheError(f"{_checksums_of(path)} does not belong to {path}: remove both, they are made anew")

    @classmethod
    def create(cls, path: Path, rows: int, shape: Sequence[int], dtype: str) -> ArrayFile:
        """Opens an array, made with no row written if there is none."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):  # processes that start together
            if not path.exists():
                _checksums_of(path).unlink(missing_ok=True)  # of an array that somebody removed
                _make(_checksums_of(path), (rows,), "uint32")
                _make(path, (rows, *shape), dtype)
        file = cls(path)
        if (file.rows, file.shape, file.dtype) != (rows, tuple(shape), np.dtype(dtype)):
            raise CacheError(
                f"{path} holds {(file.rows, *file.shape)} of {file.dtype} instead of {(rows, *shape)} of {dtype}: "
                "remove it, it is made anew"
            )
        return file

    @property
    def written(self) -> int:
        """Number of rows that are written."""
        return int(self.is_written.sum())

    @property
    def is_written(self) -> np.ndarray:
        """Whether each row is written, ``(rows,)``."""
        return np.asarray(_load(_checksums_of(self.path))) != 0

    @property
    def complete(self) -> bool:
        """Whether all rows are written."""
        return self.written == self.rows

    def read(self, rows: np.ndarray) -> np.ndarray | None:
        """Reads rows ``(B,)`` as ``(B, *shape)``; None unless all of them are written and whole."""
        values = []
        for row in rows.tolist():
            value, checksum = self._values.read(row), self._checksums.read(row)
            if value is None or checksum is None or _checksum(value) != checksum:
                return None
            values.append(value)
        return np.stack(values)

    def write(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Writes values ``(B, *shape)`` to rows ``(B,)``; on an OSError, rows that were written are kept."""
        for row, value in zip(rows.tolist(), np.ascontiguousarray(values, self.dtype), strict=True):
            self._values.write(row, value)
            self._checksums.write(row, np.asarray(_checksum(value), np.uint32))

    def damaged(self) -> list[int]:
        """Reads all that is written, and returns the rows that are not whole."""
        written = np.flatnonzero(_load(_checksums_of(self.path))).tolist()
        rows = progress(written, f"Checking {self.path.name}", len(written), "rows")
        return [row for row in rows if self.read(np.array([row])) is None]

    def erase(self, rows: Sequence[int]) -> None:
        """Marks rows as not written."""
        for row in rows:
            self._checksums.write(row, np.zeros((), np.uint32))

    def close(self) -> None:
        """Closes the files; reading or writing opens them again."""
        self._values.close()
        self._checksums.close()


class _Records:
    """The rows of one file, read and written one by one."""

    def __init__(self, path: Path) -> None:
        array = _load(path)
        self.path = path
        self.count, self.shape, self.dtype = len(array), array.shape[1:], array.dtype
        self._offset, self._size = array.offset, prod(self.shape) * self.dtype.itemsize
        self._descriptors: dict[int, int] = {}  # by flag

    def read(self, row: int) -> np.ndarray | None:
        """A copy of a row, or None where the file ends before."""
        content = os.pread(self._open(os.O_RDONLY), self._size, self._offset + row * self._size)
        return np.frombuffer(content, self.dtype).reshape(self.shape) if len(content) == self._size else None

    def write(self, row: int, value: np.ndarray) -> None:
        """Writes the whole row, or raises an OSError."""
        content, offset = memoryview(value.tobytes()), self._offset + row * self._size
        while content:
            count = os.pwrite(self._open(os.O_WRONLY), content, offset)
            content, offset = content[count:], offset + count

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_descriptors": {}}  # they mean other files in another process

    def close(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors = {}

    def _open(self, flag: int) -> int:
        if flag not in self._descriptors:
            self._descriptors[flag] = os.open(self.path, flag)
        return self._descriptors[flag]


def _checksums_of(path: Path) -> Path:
    return path.with_suffix(".written.npy")


def _load(path: Path) -> np.memmap:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # what stands in a header is parsed as Python, and may raise whatever that does
        raise CacheError(f"{path} is missing, damaged or cut off ({error}): remove it, it is made anew") from error
    if not isinstance(array, np.memmap) or array.ndim == 0 or not array.flags.c_contiguous:
        raise CacheError(f"{path} is not an array of rows: remove it, it is made anew")
    return array


def _make(path: Path, shape: tuple[int, ...], dtype: str) -> None:
    """Makes a sparse file of zeros, which gets its name once it has its full length."""
    part = path.with_suffix(".part")
    np.lib.format.open_memmap(part, mode="w+", dtype=np.dtype(dtype), shape=shape).flush()
    os.replace(part, path)


def _checksum(value: np.ndarray) -> int:
    return zlib.crc32(value.data) or 1  # 0 stands for a row that is not written
