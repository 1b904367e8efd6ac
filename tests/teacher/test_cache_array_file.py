"""Arrays on disk that are filled row by row, by whoever comes, and are never trusted further than their checksums."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from helpers.fake_datasets import Trap
from tmkd_lightning.teacher.cache import ArrayFile, CacheError

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "array.float32.npy"


def make(path: Path, rows: int = 6, shape: tuple[int, ...] = (2, 3)) -> ArrayFile:
    return ArrayFile.create(path, rows, shape, "float32")


def values(rows: np.ndarray, shape: tuple[int, ...] = (2, 3)) -> np.ndarray:
    """Each row holds its number and fractions of it."""
    size = int(np.prod(shape))
    return (rows[:, None] + np.arange(size) / size).astype(np.float32).reshape(len(rows), *shape)


@pytest.fixture
def full(path: Path) -> ArrayFile:
    file = make(path)
    file.write(np.arange(6), values(np.arange(6)))
    return file


def test_rows_come_back_in_any_order(path: Path) -> None:
    file = make(path)
    rows = np.array([4, 0, 5])
    file.write(rows, values(rows))
    asked = np.array([0, 5, 4, 0])
    np.testing.assert_array_equal(file.read(asked), values(asked))
    assert (file.written, file.complete) == (3, False)
    assert file.read(np.array([4, 1])) is None  # one of them is not there
    file.write(np.array([2]), np.zeros((1, 2, 3)))  # a row of zeros counts as written
    assert file.read(np.array([2])).tolist() == np.zeros((1, 2, 3)).tolist()
    file.close()
    np.testing.assert_array_equal(ArrayFile(path).read(asked), values(asked))
    np.testing.assert_array_equal(np.load(path)[[0, 4, 5]], values(np.array([0, 4, 5])))  # a plain array to anybody


def test_a_damaged_row_is_not_read(path: Path, full: ArrayFile) -> None:
    assert full.complete
    assert make(path).complete  # what is there is kept
    with open(path, "r+b") as raw:
        raw.seek(-3, os.SEEK_END)  # in the last row
        raw.write(b"\x07")
    assert full.read(np.array([5])) is None
    np.testing.assert_array_equal(full.read(np.arange(5)), values(np.arange(5)))
    assert full.damaged() == [5]
    full.erase([5])
    assert (full.written, full.damaged()) == (5, [])


def test_a_mark_without_its_row_is_not_believed(path: Path) -> None:
    """As after a power failure that kept one file and lost the other."""
    file = make(path)
    file.write(np.array([1]), values(np.array([1])))
    marks = np.load(path.with_suffix(".written.npy"), mmap_mode="r+")
    marks[3] = 12345
    marks.flush()
    assert file.read(np.array([3])) is None
    assert file.damaged() == [3]


def _fill(path: Path, rows: np.ndarray) -> None:
    make(path, rows=200).write(rows, values(rows))


def test_processes_fill_one_array(path: Path) -> None:
    """All start cold, and some rows are written twice, as a padded sampler deals them."""
    workers = [FORK.Process(target=_fill, args=(path, np.arange(start, 200, 3) % 200)) for start in (0, 1, 2, 0)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    np.testing.assert_array_equal(ArrayFile(path).read(np.arange(200)), values(np.arange(200)))


def _fill_for_ever(path: Path) -> None:
    file = ArrayFile.create(path, 400, (5000,), "float32")
    while True:
        for row in range(400):
            file.write(np.array([row]), values(np.array([row]), (5000,)))


@pytest.mark.parametrize("seconds", [0.05, 0.11, 0.2])
def test_what_a_killed_process_left_is_whole(path: Path, seconds: float) -> None:
    ArrayFile.create(path, 400, (5000,), "float32")
    worker = FORK.Process(target=_fill_for_ever, args=(path,))
    worker.start()
    written = path.with_suffix(".written.npy")
    while not np.load(written).any() and worker.is_alive():
        time.sleep(0.01)
    time.sleep(seconds)
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    file = ArrayFile(path)
    rows = np.flatnonzero(np.load(written))
    assert len(rows) > 0
    whole = [row for row in rows if file.read(np.array([row])) is not None]
    assert len(rows) - len(whole) <= 1  # at most the one that was being written once more
    np.testing.assert_array_equal(file.read(np.array(whole)), values(np.array(whole), (5000,)))


DAMAGES = {
    "cut off": lambda path: os.truncate(path, 140),
    "empty": lambda path: os.truncate(path, 0),
    "garbage": lambda path: path.write_bytes(b"not an array at all, but of some length"),
    "malicious": lambda path: path.write_bytes(pickle.dumps(Trap(path.parent / "sprung"))),
    "removed": Path.unlink,
}
WHICH = pytest.mark.parametrize("which", ["array.float32.npy", "array.float32.written.npy"])


@WHICH
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_files_are_named(path: Path, damage, which: str) -> None:
    make(path)
    damage(path.with_name(which))
    with pytest.raises(CacheError, match=rf"{which} is missing, damaged or cut off .*remove it"):
        ArrayFile(path)
    assert not (path.parent / "sprung").exists()


@WHICH
@pytest.mark.parametrize(
    "text",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000000000000, 3)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-3, 3)}",
        "{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3)}",  # whose rows do not lie together
        "{'descr': '<f4', 'fortran_order': False, 'shape': ()}",
        "{'descr': '<q9', 'fortran_order': False, 'shape': (2, 3)}",
        "{'descr': [1], 'fortran_order': False, 'shape': (2, 3)}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (2, 3)}",
        "(" * 3000,
        "{'descr':",
    ],
    ids=["huge", "negative", "columns", "no rows", "type", "types", "objects", "nested", "no end"],
)
def test_headers_that_say_nonsense_are_named(path: Path, text: str, which: str) -> None:
    make(path)
    header = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()  # of an array of this kind
    path.with_name(which).write_bytes(header + bytes(64))
    with pytest.raises(CacheError, match=rf"(?s){which} is (missing, damaged|not an array of rows).*: remove it"):
        ArrayFile(path)


def test_what_belongs_to_another_array_is_refused(path: Path, full: ArrayFile) -> None:
    with pytest.raises(CacheError, match=r"holds \(6, 2, 3\) of float32 instead of \(6, 4\) of float32: remove it"):
        make(path, shape=(4,))
    with pytest.raises(CacheError, match=r"instead of \(6, 2, 3\) of float16"):
        ArrayFile.create(path, 6, (2, 3), "float16")
    path.unlink()
    assert make(path).written == 0  # the marks of one that was removed are not believed
    np.save(path.with_suffix(".written.npy"), np.zeros(5, np.uint32))
    with pytest.raises(CacheError, match="does not belong to"):
        ArrayFile(path)


def test_a_file_that_is_cut_off_while_it_is_read_has_no_rows_there(path: Path) -> None:
    """Memory mapped to it would end the process."""
    file = ArrayFile.create(path, 2000, (100,), "float32")
    file.write(np.arange(2000), values(np.arange(2000), (100,)))
    os.truncate(path, 4096)
    os.truncate(path.with_suffix(".written.npy"), 4096)
    assert file.read(np.array([1999])) is None
    np.testing.assert_array_equal(file.read(np.arange(3)), values(np.arange(3), (100,)))
