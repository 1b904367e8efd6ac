"""Archives of data sets: downloaded, checked by their md5, and unpacked, each step as a whole or not at all."""

import os
import shutil
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError

from filelock import FileLock
from lightning.pytorch.utilities import rank_zero_info
from torchvision.datasets.utils import check_integrity, download_url

from tmkd_lightning.data.errors import DataError


class Archive(NamedTuple):
    """An archive that a data set is published in, ``.zip`` or any kind of tar.

    Attributes:
        name: of the file.
        url: where to download it.
        md5: its checksum, in hexadecimal digits.
        holds: files or folders at its top level that are moved into the root; the rest is dropped.
    """

    name: str
    url: str
    md5: str
    holds: tuple[str, ...]

    def is_unpacked(self, root: Path) -> bool:
        """Whether everything that the archive holds is in a folder."""
        return all((root / name).exists() for name in self.holds)


def download_and_unpack(root: Path, archives: Sequence[Archive], download: bool) -> None:
    """Unpacks archives that are not unpacked yet; downloads those that are missing, if `download` is true.

    Unpacked data are used as they are, also in a read-only folder. Of several processes, one works and the others wait.
    """
    missing = [archive for archive in archives if not archive.is_unpacked(root)]
    if not missing:
        return
    for archive in missing:
        if not download and not (root / archive.name).exists():
            raise DataError(
                f"{root} holds neither {' and '.join(archive.holds)} nor {archive.name}: is root right? Pass "
                f"download=True (a datamodule downloads in prepare_data), or put the archive there from {archive.url}"
            )
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".lock"):
            for archive in missing:
                if not archive.is_unpacked(root):  # by another process, meanwhile
                    _download(archive, root)
                    _unpack(archive, root)
    except (OSError, NotImplementedError) as error:  # the second where a file system has no locks
        raise DataError(f"{root} cannot be written to ({error}): unpack the data there yourself") from error


def _download(archive: Archive, root: Path) -> None:
    """Downloads an archive under a hidden name, and renames it if its md5 is right."""
    path, part = root / archive.name, root / f".{archive.name}.part"
    if path.exists():
        if not check_integrity(path, archive.md5):
            raise DataError(f"{path} does not have the md5 {archive.md5}: remove it, or replace it from {archive.url}")
        return
    rank_zero_info(f"Downloading {archive.url} to {root}")
    try:
        download_url(archive.url, root, part.name, archive.md5)
        part.replace(path)
    except (OSError, HTTPException, RuntimeError) as error:  # RuntimeError: another md5
        part.unlink(missing_ok=True)
        if isinstance(error, HTTPError):
            error.close()  # it holds the connection
        remedy = f"try again later, or put the file at {path} by other means"
        raise DataError(f"{archive.url} cannot be downloaded ({error}): {remedy}") from error


def _unpack(archive: Archive, root: Path) -> None:
    """Unpacks an archive into a hidden folder, and moves what it holds into the root."""
    path, scratch = root / archive.name, root / f".{archive.name}.unpacking"
    rank_zero_info(f"Unpacking {path}")
    shutil.rmtree(scratch, ignore_errors=True)  # of a process that was killed
    try:
        # of zip, members that lead outside are skipped; for tar, the filter refuses them
        shutil.unpack_archive(path, scratch, filter=None if path.suffix == ".zip" else "data")
        for name in archive.holds:
            os.replace(scratch / name, root / name)
    except Exception as error:  # on damaged files, tarfile and the decompressors raise errors of any kind
        reason = (str(error) or repr(error)).splitlines()[0]
        raise DataError(f"{path} cannot be unpacked ({reason}): remove it, make room or get it anew") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
