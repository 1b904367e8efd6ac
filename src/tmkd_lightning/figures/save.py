"""Figures as files: all of them or none."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from tmkd_lightning.figures.drawing import styled
from tmkd_lightning.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "pdf")
"""Formats of files."""
_DPI = 200
_WITHOUT_DATE = {"png": {}, "pdf": {"CreationDate": None}}  # one run, one file, bit by bit


def render(figure: Figure, kind: str = "png", dpi: int = _DPI) -> bytes:
    """Turns a figure into the bytes of a file.

    Args:
        figure: as `figure_of` or `page_of` gives it.
        kind: ``png`` or ``pdf``.
        dpi: pixels an inch, of PNG.

    Returns:
        The file's content, without a date.

    Raises:
        ValueError: another format.
    """
    check_format(kind)
    content = io.BytesIO()
    with styled():
        figure.savefig(content, format=kind, dpi=dpi, metadata=_WITHOUT_DATE[kind])
    return content.getvalue()


def write(files: Mapping[Path, bytes]) -> None:
    """Writes files that have all been rendered, each whole or not at all.

    Args:
        files: content by path.

    Raises:
        ValueError: a folder cannot be written to; then nothing has been written.
    """
    for folder in {path.parent for path in files}:
        check_folder(folder)
    for path, content in files.items():
        with atomic_write(path) as file:
            file.write(content)


def check_format(kind: str) -> None:
    """Refuses formats that we do not write.

    Raises:
        ValueError: neither ``png`` nor ``pdf``.
    """
    if kind not in FORMATS:
        raise ValueError(f"unknown format {kind!r}: choose from {list(FORMATS)}")


def check_folder(folder: Path) -> None:
    """Makes a folder if it is missing, and makes sure that it can be written to.

    Raises:
        ValueError: it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"figures cannot be written to {folder} ({error}): choose another folder") from error
