"""Figures as files: all of them or none."""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from tmkd_lightning.figures.drawing import styled
from tmkd_lightning.utils.files import atomic_write, check_writable

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
    """Writes files that have all been rendered; they take their names when all are written.

    Args:
        files: content by path.

    Raises:
        OSError: a file cannot be written; then none has been.
    """
    files = {Path(path).expanduser(): content for path, content in files.items()}
    for path in files:
        check_writable(path)
    with ExitStack() as stack:
        for path, content in files.items():
            file = stack.enter_context(atomic_write(path))
            file.write(content)
            file.flush()


def check_format(kind: str) -> None:
    """Refuses formats that we do not write.

    Raises:
        ValueError: neither ``png`` nor ``pdf``.
    """
    if kind not in FORMATS:
        raise ValueError(f"unknown format {kind!r}: choose from {list(FORMATS)}")
