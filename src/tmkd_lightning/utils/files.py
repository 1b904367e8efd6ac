"""Atomic writing of files, and their digests."""

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
_OPEN = re.compile(r"/(proc/(self|\d+)(/task/\d+)?|dev)/fd")  # folder of the file descriptors of a process
_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is larger than the disk or the limits of the process allow",
}


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Opens a binary file that gets its name only once it is complete; its folder is made if missing.

    Several processes may write one path at once: the last to finish wins, and readers see one whole file. A link stays,
    and what it leads to is replaced. A pipe or a device, such as ``/dev/stdout``, is written to directly.

    Raises:
        OSError: it cannot be written; where the disk is full, the message says so and names the file.

    Example:
        >>> path = Path(tempfile.mkdtemp()) / "folder" / "file"
        >>> with atomic_write(path) as file:
        ...     count = file.write(b"whole")
        >>> path.read_bytes()
        b'whole'
    """
    place, before = _resolve(path), sys.exception()
    try:
        with _stream(place) if is_stream(place) else _replaced(place) as file:
            yield file
    except Exception as error:
        cause: BaseException | None = error  # torch.save hides that of a full disk behind one of its own
        while cause is not None and cause is not before and getattr(cause, "errno", None) not in _FULL:
            cause = cause.__cause__ or cause.__context__
        if not isinstance(cause, OSError) or cause is before:
            raise
        raise OSError(
            cause.errno, f"{path} cannot be written: {_FULL[cause.errno or 0]}; a file that was there before is kept"
        ) from error


def check_writable(path: Path) -> None:
    """Raises an OSError if no file can be written there, before the work that would fill it; makes its folder."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: give the name of a file")
    place = _resolve(path)
    if is_stream(place):
        return  # trying would begin to write
    file = next((above for above in place.parents if above.is_file()), None)
    if file is not None:  # the system's message would be that it exists
        raise NotADirectoryError(f"{path} cannot be written ({file} is a file, not a folder): choose another place")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place.parent):
            pass
    except OSError as error:
        raise OSError(f"{path} cannot be written ({error}): choose another place") from error


def is_stream(path: Path) -> bool:
    """Whether a path leads to a pipe, a device or a file descriptor of this process, which cannot be replaced.

    Example:
        >>> is_stream(Path("/dev/null")), is_stream(Path("/dev/stdout")), is_stream(Path(tempfile.mkdtemp()) / "new")
        (True, True, False)
    """
    path = _resolve(path)
    return _descriptor(path) is not None or (path.exists() and not path.is_file() and not path.is_dir())


def temporary_prefix(path: Path) -> str:
    """How the names of temporary files begin that are to take a path's name, with room for a suffix.

    Example:
        >>> temporary_prefix(Path("runs/last.ckpt")), len(temporary_prefix(Path("a" * 255)))
        ('.last.ckpt.', 42)
    """
    name = os.fsencode(path.name)
    return f".{path.name}." if len(name) <= _LONGEST else f".{hashlib.sha256(name).hexdigest()[:40]}."


def sha256_of(path: Path) -> str:
    """SHA-256 of a file of any size, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _replaced(path: Path) -> Iterator[IO[bytes]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=temporary_prefix(path), delete=False) as file:
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
    for text in (sys.stdout, sys.stderr):
        text.flush()  # what was printed stands before
    descriptor = _descriptor(path)  # opened anew, a file would be emptied that others write to
    with path.open("wb") if descriptor is None else os.fdopen(os.dup(descriptor), "wb") as file:
        yield file


def _resolve(path: Path) -> Path:
    """Where the links of a path lead to, even if nothing is there yet, up to a file descriptor of this process."""
    for _ in range(_LINKS):
        if _descriptor(path) is not None or not path.is_symlink():
            return path
        path = path.parent / path.readlink()
    raise OSError(errno.ELOOP, f"{path} cannot be written: its links lead in a circle")


def _descriptor(path: Path) -> int | None:
    open_here = path.name.isdecimal() and _OPEN.fullmatch(os.path.realpath(path.parent))
    return int(path.name) if open_here else None
