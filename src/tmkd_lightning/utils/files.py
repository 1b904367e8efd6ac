"""Atomic writing of files, and their digests."""

import errno
import hashlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_STANDARD = {"/dev/stdout": 1, "/dev/stderr": 2}  # file descriptors
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Opens a binary file that gets its name only once it is complete; its folder is made if missing.

    Several processes may write one path at once: the last to finish wins, and readers see one whole file. A link stays,
    and what it leads to is replaced. A pipe or a device, such as ``/dev/stdout``, is written to directly.
    """
    try:
        with _open_stream(path) if is_stream(path) else _open_replacement(Path(os.path.realpath(path))) as file:
            yield file
    except Exception as error:
        cause: BaseException | None = error  # torch.save hides that of a full disk behind one of its own
        while cause is not None and getattr(cause, "errno", None) not in _FULL:
            cause = cause.__cause__ or cause.__context__
        if not isinstance(cause, OSError):
            raise
        message = f"{path} cannot be written: {cause.strerror}; a file that was there before is kept"
        raise OSError(cause.errno, message) from error


def check_writable(path: Path) -> None:
    """Raises an OSError if no file can be written there, before the work that would fill it; makes its folder."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: give the name of a file")
    if is_stream(path):
        return  # trying would begin to write
    target = Path(os.path.realpath(path))
    file = next((parent for parent in target.parents if parent.is_file()), None)
    if file is not None:  # the system's message would be that it exists
        raise NotADirectoryError(f"{path} cannot be written ({file} is a file, not a folder): choose another place")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise OSError(f"{path} cannot be written ({error}): choose another place") from error


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Makes a folder that gets its name only once it is complete, and is removed where it fails.

    Raises:
        FileExistsError: there is something of that name already, other than an empty folder.
    """
    check_new_folder(path)
    target = Path(os.path.realpath(path))
    folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=temporary_prefix(target)))
    try:
        yield folder
        folder.chmod(0o777 & ~_umask())  # a temporary folder is private to its user
        folder.rename(target)  # over an empty one
    except BaseException:
        shutil.rmtree(folder)
        raise


def check_new_folder(path: Path) -> None:
    """Raises an OSError if no folder can be written there, or something is there; makes the folder around it."""
    if os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(f"{path} is there already: name another folder, or remove it")
    check_writable(path / "file" if path.is_dir() else path)


def is_stream(path: Path) -> bool:
    """Whether a path leads to a pipe or a device, or is ``/dev/stdout``; these cannot be replaced."""
    return _descriptor(path) is not None or (path.exists() and not path.is_file() and not path.is_dir())


def _descriptor(path: Path) -> int | None:
    match = re.fullmatch(r"/(?:dev|proc/self)/fd/(\d+)", str(path))
    return int(match[1]) if match else _STANDARD.get(str(path))


def temporary_prefix(path: Path) -> str:
    """Beginning of the names of a path's temporary files: its own name, or a digest where that leaves no room."""
    name = os.fsencode(path.name)
    return f".{path.name}." if len(name) <= 120 else f".{hashlib.sha256(name).hexdigest()[:40]}."


def sha256_of(path: Path) -> str:
    """SHA-256 of a file of any size, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _open_replacement(path: Path) -> Iterator[IO[bytes]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=temporary_prefix(path), delete=False) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o666 & ~_umask())  # a temporary file is private to its user
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


@contextmanager
def _open_stream(path: Path) -> Iterator[IO[bytes]]:
    sys.stdout.flush()  # what was printed stands before
    sys.stderr.flush()
    descriptor = _descriptor(path)  # where it leads to a file, opening it anew would empty that
    with path.open("wb") if descriptor is None else os.fdopen(os.dup(descriptor), "wb") as file:
        yield file
