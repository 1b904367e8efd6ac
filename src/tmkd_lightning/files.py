"""Files that are whole or not there, and known by their content."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file for writing that takes its name only once it is complete.

    Several processes may write one path at once: the last to finish wins, and readers see one whole file.

    Args:
        path: where the file shall be; its folder is made if missing.

    Yields:
        A binary file to write to.

    Example:
        >>> path = Path(tempfile.mkdtemp()) / "folder" / "file"
        >>> with atomic_write(path) as file:
        ...     count = file.write(b"whole")
        >>> path.read_bytes()
        b'whole'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
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
    file = next((above for above in path.parents if above.is_file()), None)
    if file is not None:  # the system's words would be that it exists
        raise NotADirectoryError(f"{path} cannot be written ({file} is a file, not a folder): choose another place")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
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
