"""Files that are whole or not there, and known by their content."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_LONGEST = 120  # bytes of a name to which more is added; file systems take 143 to 255
_LINKS = 40  # that lead to one another, as many as Linux follows
_OPEN = re.compile(r"/(proc/(self|\d+)(/task/\d+)?|dev)/fd")  # folder of what a process has open, one number each
_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is larger than the disk or the limits of the process allow",
}


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file for writing that takes its name only once it is complete.

    Several processes may write one path at once: the last to finish wins, and readers see one whole file. A link stays,
    and what it leads to is replaced. A pipe or a device, such as ``/dev/stdout``, is written to as it is.

    Args:
        path: where the file shall be; its folder is made if missing.

    Yields:
        A binary file to write to.

    Raises:
        OSError: it cannot be written; where the disk is full, the message says so and names the file.

    Example:
        >>> path = Path(tempfile.mkdtemp()) / "folder" / "file"
        >>> with atomic_write(path) as file:
        ...     count = file.write(b"whole")
        >>> path.read_bytes()
        b'whole'
    """
    place, before = _behind_links(path), sys.exception()
    try:
        with _stream(place) if is_stream(place) else _replaced(place) as file:
            yield file
    except Exception as error:
        full = _full_disk(error, before)
        if full is None:
            raise
        raise OSError(
            full.errno, f"{path} cannot be written: {_FULL[full.errno or 0]}; a file that was there before is kept"
        ) from error


def is_stream(path: Path) -> bool:
    """Whether a path leads to a pipe, a device, or what this process has open: nothing that could be replaced.

    Example:
        >>> is_stream(Path("/dev/null")), is_stream(Path("/dev/stdout")), is_stream(Path(tempfile.mkdtemp()) / "new")
        (True, True, False)
    """
    path = _behind_links(path)
    return _descriptor(path) is not None or (path.exists() and not path.is_file() and not path.is_dir())


def unfinished(path: Path) -> str:
    """How the names of files begin that are to take a path's name; there is room for what makes them differ.

    Example:
        >>> unfinished(Path("runs/last.ckpt")), len(unfinished(Path("a" * 255)))
        ('.last.ckpt.', 42)
    """
    name = os.fsencode(path.name)
    return f".{path.name}." if len(name) <= _LONGEST else f".{hashlib.sha256(name).hexdigest()[:40]}."


@contextmanager
def _replaced(path: Path) -> Iterator[IO[bytes]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=unfinished(path), delete=False) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(file.name, 0o666 & ~umask)  # a temporary file is private to its user
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


@contextmanager
def _stream(path: Path) -> Iterator[IO[bytes]]:
    descriptor = _descriptor(path)
    if descriptor is None:
        with path.open("wb") as file:
            yield file
        return
    for text in (sys.stdout, sys.stderr):
        text.flush()  # what was printed stands before
    with os.fdopen(os.dup(descriptor), "wb") as file:  # opened anew, a file would be emptied that others write to
        yield file


def _behind_links(path: Path) -> Path:
    """Where a path leads to, also if nothing is there yet; of what this process has open, its number."""
    for _ in range(_LINKS):
        if _descriptor(path) is not None or not path.is_symlink():
            return path
        path = path.parent / path.readlink()
    raise OSError(errno.ELOOP, f"{path} cannot be written: its links lead in a circle")


def _descriptor(path: Path) -> int | None:
    if path.name.isdecimal() and _OPEN.fullmatch(os.path.realpath(path.parent)):
        return int(path.name)
    return None


def _full_disk(error: BaseException | None, before: BaseException | None) -> OSError | None:
    """The error of a full disk among those that led to one, after what came before; torch's own speaks of positions."""
    while error is not None and error is not before:
        if isinstance(error, OSError) and error.errno in _FULL:
            return error
        error = error.__cause__ or error.__context__
    return None


def check_writable(path: Path) -> None:
    """Refuses a place where no file can be written, before the work that would fill it.

    Args:
        path: where a file shall be; its folder is made if missing. A file that is there already is not touched.

    Raises:
        OSError: it is a folder, or its folder takes no files or is a file itself.

    Example:
        >>> check_writable(Path(tempfile.mkdtemp()) / "folder" / "file")
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: give the name of a file")
    place = _behind_links(path)
    if is_stream(place):
        return  # trying would begin to write
    file = next((above for above in place.parents if above.is_file()), None)
    if file is not None:  # the system's words would be that it exists
        raise NotADirectoryError(f"{path} cannot be written ({file} is a file, not a folder): choose another place")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place.parent):
            pass
    except OSError as error:
        raise OSError(f"{path} cannot be written ({error}): choose another place") from error


def sha256_of(path: Path) -> str:
    """Names a file by its content.

    Args:
        path: of a file of any size; it is read piece by piece.

    Returns:
        SHA-256, 64 hexadecimal digits.

    Raises:
        OSError: it cannot be read.

    Example:
        >>> path = Path(tempfile.mkdtemp()) / "file"
        >>> path.write_bytes(b"whole")
        5
        >>> sha256_of(path)[:16]
        '5d5766cf2d787016'
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
