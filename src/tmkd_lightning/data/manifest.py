"""What stored copies were made from: a line for each original, added as its copy is done."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from pathlib import Path

from tmkd_lightning.data.image_files import why_no_file


@dataclass(frozen=True)
class Entry:
    """An original as it was when its copy was made.

    Args:
        name: path below the root, with slashes.
        size: in bytes.
        mtime_ns: when it was last changed, in nanoseconds.
        digest: of its bytes.
        copy_size: of its copy in bytes; 0 where the original is small enough to be read itself.
    """

    name: str
    size: int
    mtime_ns: int
    digest: str
    copy_size: int

    def is_of(self, path: Path) -> bool:
        """Tells whether a file has neither been changed nor touched since; it is not opened."""
        try:
            status = path.stat()
        except OSError:
            return False
        return (status.st_size, status.st_mtime_ns) == (self.size, self.mtime_ns)


def digest_of(path: Path) -> str:
    """Computes what tells the content of one file from that of another.

    Args:
        path: of the file.

    Returns:
        Its blake2b digest of 16 bytes, in hexadecimal digits.

    Raises:
        OSError: it cannot be read.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "empty"
        >>> path.touch()
        >>> digest_of(path)
        'cae66941d9efbd404e4d88758ea67670'
    """
    if problem := why_no_file(path):  # a pipe would be waited for without end
        raise OSError(f"it {problem}")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def to_line(entry: Entry) -> str:
    """Writes an entry as one line of JSON; any name that a file can have fits in.

    Args:
        entry: to write.

    Returns:
        The line, with its end.

    Example:
        >>> to_line(Entry("train/ant/1.png", 5, 7, "cae6", 0))
        '["train/ant/1.png", 5, 7, "cae6", 0]\\n'
    """
    return f"{json.dumps(astuple(entry))}\n"


def read_entries(path: Path) -> dict[str, Entry]:
    """Reads a manifest, be it one that a killed process left behind.

    Args:
        path: of the manifest.

    Returns:
        The last entry of each name; none without a manifest. Lines that were cut off are passed over.

    Raises:
        OSError: it cannot be read.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "manifest.jsonl"
        >>> entry = Entry("1.png", 5, 7, "cae6", 0)
        >>> path.write_text(to_line(entry) + '["2.png", 5')
        38
        >>> read_entries(path) == {"1.png": entry}
        True
    """
    entries = {}
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            entry = Entry(*json.loads(line))
            entries[entry.name] = entry
        except (ValueError, TypeError, RecursionError):  # no JSON, or not that of an entry
            continue
    return entries


def write_entries(path: Path, entries: Iterable[Entry]) -> None:
    """Writes a whole manifest, which takes the old one's place at once.

    Args:
        path: of the manifest; only one process may write it at a time.
        entries: all of them.

    Raises:
        OSError: it cannot be written.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "manifest.jsonl"
        >>> write_entries(path, [Entry("1.png", 5, 7, "cae6", 0)])
        >>> list(read_entries(path))
        ['1.png']
    """
    part = path.with_name(f"{path.name}.part")
    with open(part, "w") as file:
        file.writelines(map(to_line, entries))
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
