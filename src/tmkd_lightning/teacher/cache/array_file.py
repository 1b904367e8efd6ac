"""An array on disk that several processes fill row by row, in any order, and that survives being killed."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy as np
from filelock import FileLock

from tmkd_lightning.teacher.cache.errors import CacheError

_MARKS = ".written.npy"


class RowFile:
    """Two files in NumPy's format: the rows, and for each row a checksum, 0 while the row is not written.

    A row is written before its checksum, and counts only if the two agree: what a killed process, a full disk or
    another machine left half written is a row that is not there. Rows are read and written at their place in the file
    and not through mapped memory, in which a full disk or a file that was cut off would kill the process, and machines
    that share a file would overwrite each other's neighbours.

    Args:
        path: of the array, ``.npy``.

    Raises:
        CacheError: there is no such array, or it is damaged.

    Example:
        >>> import tempfile
        >>> file = RowFile.create(Path(tempfile.mkdtemp()) / "array.npy", rows=3, shape=(2,), dtype="float32")
        >>> file.write(np.array([2]), np.array([[5.0, 6.0]]))
        >>> file.read(np.array([2])).tolist(), file.read(np.array([1, 2])), file.written
        ([[5.0, 6.0]], None, 1)
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._values = _Records(path)
        self._marks = _Records(_marks_of(path))
        self.rows, self.shape, self.dtype = self._values.count, self._values.shape, self._values.dtype
        if (self._marks.count, self._marks.shape, self._marks.dtype) != (self.rows, (), np.dtype(np.uint32)):
            raise CacheError(f"{_marks_of(path)} does not belong to {path}: remove both, they are made anew")

    @classmethod
    def create(cls, path: Path, rows: int, shape: Sequence[int], dtype: str) -> RowFile:
        """Makes an array in which nothing is written, unless there is one already.

        Args:
            path: of the array, ``.npy``; its folder is made if missing.
            rows: how many there are.
            shape: of a row.
            dtype: of the values.

        Returns:
            The array, open for reading and writing.

        Raises:
            CacheError: there is one of another shape or type, or a damaged one.
            OSError: it cannot be made.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):  # processes that start together
            if not path.exists():
                _marks_of(path).unlink(missing_ok=True)  # of an array that somebody removed
                _make(_marks_of(path), (rows,), "uint32")
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
        """How many rows are written."""
        return int(np.count_nonzero(_load(_marks_of(self.path))))

    @property
    def complete(self) -> bool:
        """Whether all rows are written."""
        return self.written == self.rows

    def read(self, rows: np.ndarray) -> np.ndarray | None:
        """Reads some rows, if all of them are written and whole.

        Args:
            rows: which ones, ``(B,)``.

        Returns:
            A copy, ``(B, *shape)``, or None.
        """
        values = []
        for row in rows.tolist():
            value, mark = self._values.read(row), self._marks.read(row)
            if value is None or mark is None or _checksum(value) != mark:
                return None
            values.append(value)
        return np.stack(values)

    def write(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Writes some rows.

        Args:
            rows: which ones, ``(B,)``.
            values: ``(B, *shape)``.

        Raises:
            OSError: they cannot be written; rows that were are kept.
        """
        for row, value in zip(rows.tolist(), np.ascontiguousarray(values, self.dtype), strict=True):
            self._values.write(row, value)
            self._marks.write(row, np.asarray(_checksum(value), np.uint32))

    def damaged(self) -> list[int]:
        """Reads everything that is written, and gives the rows that are not whole."""
        written = np.flatnonzero(_load(_marks_of(self.path))).tolist()
        return [row for row in written if self.read(np.array([row])) is None]

    def forget(self, rows: Sequence[int]) -> None:
        """Marks rows as not written.

        Raises:
            OSError: the file cannot be written to.
        """
        for row in rows:
            self._marks.write(row, np.zeros((), np.uint32))

    def close(self) -> None:
        """Lets go of the files; reading or writing opens them again."""
        self._values.close()
        self._marks.close()


class _Records:
    """The rows of one file, read and written one by one."""

    def __init__(self, path: Path) -> None:
        array = _load(path)
        self.path = path
        self.count, self.shape, self.dtype = len(array), array.shape[1:], array.dtype
        self._offset = array.offset
        self._size = prod(self.shape) * self.dtype.itemsize
        self._reader: int | None = None
        self._writer: int | None = None

    def read(self, row: int) -> np.ndarray | None:
        """A copy, or None where the file ends before."""
        if self._reader is None:
            self._reader = os.open(self.path, os.O_RDONLY)
        content = os.pread(self._reader, self._size, self._offset + row * self._size)
        return np.frombuffer(content, self.dtype).reshape(self.shape) if len(content) == self._size else None

    def write(self, row: int, value: np.ndarray) -> None:
        """Writes one row, all of it or an OSError."""
        if self._writer is None:
            self._writer = os.open(self.path, os.O_WRONLY)
        content, offset = memoryview(value.tobytes()), self._offset + row * self._size
        while content:
            count = os.pwrite(self._writer, content, offset)
            content, offset = content[count:], offset + count

    def close(self) -> None:
        for descriptor in (self._reader, self._writer):
            if descriptor is not None:
                os.close(descriptor)
        self._reader = self._writer = None


def _marks_of(path: Path) -> Path:
    return path.with_suffix(_MARKS)


def _load(path: Path) -> np.memmap:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # what stands in a header is parsed as Python, and may raise whatever that does
        raise CacheError(f"{path} is missing, damaged or cut off ({error}): remove it, it is made anew") from error
    if not isinstance(array, np.memmap) or array.ndim == 0 or not array.flags.c_contiguous:
        raise CacheError(f"{path} is not an array of rows: remove it, it is made anew")
    return array


def _make(path: Path, shape: tuple[int, ...], dtype: str) -> None:
    """An array of zeros that takes no space yet, under its name only once it has its full length."""
    part = path.with_suffix(".part")
    np.lib.format.open_memmap(part, mode="w+", dtype=np.dtype(dtype), shape=shape).flush()
    os.replace(part, path)


def _checksum(value: np.ndarray) -> int:
    return zlib.crc32(value.data) or 1  # 0 stands for a row that is not written
