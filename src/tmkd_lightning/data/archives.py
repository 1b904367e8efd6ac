"""Archives that are unpacked as a whole or not at all."""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lightning.pytorch.utilities import rank_zero_info

from tmkd_lightning.data.errors import DataError


@dataclass(frozen=True)
class Archive:
    """An archive that a dataset is published in.

    Args:
        name: of the file.
        url: where it can be loaded from.
        md5: checksum, in hexadecimal digits.
        holds: names of what is taken out of it, files or folders at its top level.
        size: in bytes; None if not known.
    """

    name: str
    url: str
    md5: str
    holds: tuple[str, ...]
    size: int | None = None

    def is_unpacked(self, root: Path) -> bool:
        """Tells whether everything that is taken out of it is in a folder."""
        return all((root / name).exists() for name in self.holds)


def unpack(archive: Path, root: Path, names: Sequence[str]) -> None:
    """Takes files and folders out of a tar archive; each appears complete or not at all.

    All members are looked at before anything is written. Only one process may unpack an archive at a time.

    Args:
        archive: the tar file, compressed or not.
        root: existing folder to unpack into.
        names: what to take, at the archive's top level; the rest is dropped.

    Raises:
        DataError: the archive is damaged, lacks one of `names` or holds links or paths that lead out of `root`, or the
            disk is full or read-only; the message names the archive.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> with tarfile.open(root / "lists.tar", "w") as tar:
        ...     for name in ("train.txt", "test.txt"):
        ...         tar.addfile(tarfile.TarInfo(name))
        >>> unpack(root / "lists.tar", root, ["train.txt"])
        >>> sorted(path.name for path in root.iterdir())
        ['lists.tar', 'train.txt']
    """
    scratch = root / f".{archive.name}.unpacking"
    try:
        with tarfile.open(archive) as tar:
            members = tar.getmembers()
            _check(archive, members, names)
            _check_space(archive, root, sum(member.size for member in members))
            rank_zero_info(f"Unpacking {archive}")
            _remove(scratch)  # of a process that was killed
            tar.extractall(scratch, filter="data")
        for name in names:
            os.replace(scratch / name, root / name)
    except DataError:
        raise
    except Exception as error:  # on foreign bytes tarfile and what decompresses for it raise whatever they come to
        if isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile):
            raise DataError(f"{archive} cannot be unpacked in {root} ({error}): nothing of it was kept") from error
        reason = (str(error) or repr(error)).splitlines()[0]  # the rest lists what each compression thinks of it
        raise DataError(f"{archive} cannot be unpacked ({reason}): remove it, and load it again") from error
    finally:
        _remove(scratch)


def _check(archive: Path, members: list[tarfile.TarInfo], names: Sequence[str]) -> None:
    for member in members:
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts:
            raise DataError(f"{archive} is not unpacked: its member {member.name} would lie outside the folder")
        if not (member.isfile() or member.isdir()):
            raise DataError(f"{archive} is not unpacked: its member {member.name} is a link or a device")
    there = {PurePosixPath(member.name).parts[:1] for member in members}
    for name in names:
        if (name,) not in there:
            raise DataError(f"{archive} holds no {name}: it is another archive than expected, remove it")


def _check_space(archive: Path, root: Path, needed: int) -> None:
    free = shutil.disk_usage(root).free
    if needed > free:
        raise DataError(f"{root} has {free:,} bytes free, and unpacking {archive} needs {needed:,}: make room")


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
