"""An array on disk that several processes fill row by row, in any order, and that survives being killed."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock

from tmkd_lightning.cache.errors import CacheError

_MARKS = ".written.npy"


class RowFile:
    """Two files in NumPy's format: the rows, and for each row a checksum, 0 while the row is not written.

    A row is written before its checksum, and counts only if the two agree: what a killed process, a full disk or
    another machine left half written is a row that is not there. Rows are written at their place in the file and not
    through mapped memory, so that a full disk is an error and processes on several machines do not overwrite each
    other's neighbours.

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
        self.array = _open(path)
        self.marks = _open(_marks_of(path))
        if self.marks.shape != self.array.shape[:1] or self.marks.dtype != np.uint32:
            raise CacheError(f"{_marks_of(path)} does not belong to {path}: remove both, they are made anew")
        self._descriptors: tuple[int, int] | None = None

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
            _make(_marks_of(path), (rows,), "uint32")
            _make(path, (rows, *shape), dtype)
        file = cls(path)
        if file.array.shape != (rows, *shape) or file.array.dtype != np.dtype(dtype):
            raise CacheError(
                f"{path} holds {file.array.shape} of {file.array.dtype} instead of {(rows, *shape)} of {dtype}: "
                "remove it, it is made anew"
            )
        return file

    @property
    def written(self) -> int:
        """How many rows are written."""
        return int(np.count_nonzero(self.marks))

    @property
    def complete(self) -> bool:
        """Whether all rows are written."""
        return self.written == len(self.marks)

    def read(self, rows: np.ndarray) -> np.ndarray | None:
        """Reads some rows, if all of them are written and whole.

        Args:
            rows: which ones, ``(B,)``.

        Returns:
            A copy, ``(B, *shape)``, or None.
        """
        marks = self.marks[rows]
        if not marks.all():
            return None
        values = self.array[rows]
        whole = all(_checksum(value) == mark for value, mark in zip(values, marks, strict=True))
        return values if whole else None

    def write(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Writes some rows.

        Args:
            rows: which ones, ``(B,)``.
            values: ``(B, *shape)``.

        Raises:
            OSError: they cannot be written; rows that were are kept.
        """
        array, marks = self._open_for_writing()
        for row, value in zip(rows.tolist(), np.ascontiguousarray(values, self.array.dtype), strict=True):
            _put(array, value, self.array.offset + row * value.nbytes)
            mark = np.uint32(_checksum(value))
            _put(marks, mark, self.marks.offset + row * mark.nbytes)

    def damaged(self) -> list[int]:
        """Reads everything that is written, and gives the rows that are not whole."""
        return [row for row in np.flatnonzero(self.marks).tolist() if self.read(np.array([row])) is None]

    def forget(self, rows: Sequence[int]) -> None:
        """Marks rows as not written.

        Raises:
            OSError: the file cannot be written to.
        """
        _, marks = self._open_for_writing()
        for row in rows:
            _put(marks, np.uint32(0), self.marks.offset + row * self.marks.itemsize)

    def close(self) -> None:
        """Lets go of the files for writing; reading goes on."""
        for descriptor in self._descriptors or ():
            os.close(descriptor)
        self._descriptors = None

    def _open_for_writing(self) -> tuple[int, int]:
        if self._descriptors is None:
            self._descriptors = os.open(self.path, os.O_WRONLY), os.open(_marks_of(self.path), os.O_WRONLY)
        return self._descriptors


def _marks_of(path: Path) -> Path:
    return path.with_suffix(_MARKS)


def _open(path: Path) -> np.memmap:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CacheError(f"{path} is missing, damaged or cut off ({error}): remove it, it is made anew") from error
    if not isinstance(array, np.memmap):
        raise CacheError(f"{path} is not an array: remove it, it is made anew")
    return array


def _make(path: Path, shape: tuple[int, ...], dtype: str) -> None:
    """An array of zeros that takes no space yet, under its name only once it has its full length."""
    if path.exists():
        return
    part = path.with_suffix(".part")
    np.lib.format.open_memmap(part, mode="w+", dtype=np.dtype(dtype), shape=shape).flush()
    os.replace(part, path)


def _checksum(value: np.ndarray) -> int:
    return zlib.crc32(value.data) or 1  # 0 stands for a row that is not written


def _put(descriptor: int, value: np.ndarray | np.generic, offset: int) -> None:
    content = memoryview(value.tobytes())
    while content:
        count = os.pwrite(descriptor, content, offset)
        content, offset = content[count:], offset + count
