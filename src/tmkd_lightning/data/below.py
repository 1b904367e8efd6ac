"""Image files in a folder, at any depth, and what only looks like some: nothing is dropped without a word."""

from __future__ import annotations

import os
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS


def images_below(folder: Path) -> list[Path]:
    """Finds what is to be read as an image: what has the suffix of one and is no folder.

    That may be a link that leads nowhere or a pipe, and beside these come links without a suffix that lead nowhere and
    folders that cannot be looked into: reading each by `ImageFiles` says what is wrong. Linked folders are followed,
    unless what they lead to is read anyway, so that circles end. Hidden files and folders are passed over.

    Args:
        folder: to look in; nothing is found if it is not there.

    Returns:
        Paths below the folder, in alphabetical order.

    Example:
        >>> from tempfile import mkdtemp
        >>> folder = Path(mkdtemp())
        >>> (folder / "1.PNG").touch(), (folder / ".2.png").touch(), (folder / "again").symlink_to(folder)
        (None, None, None)
        >>> [path.name for path in images_below(folder)]
        ['1.PNG']
    """
    found: list[Path] = []
    linked: list[Path] = []
    seen: set[str] = set()
    _walk(folder, found, linked, seen)
    for place in linked:  # grows meanwhile: what is linked may hold links
        _walk(place, found, linked, seen)
    return sorted(found)


def dangling(folder: Path) -> list[Path]:
    """Links right in a folder that lead nowhere, in alphabetical order; hidden ones are passed over.

    Args:
        folder: to look in; nothing is found if it is not there.
    """
    links = sorted(path for path in folder.iterdir() if path.is_symlink()) if folder.is_dir() else []
    return [path for path in links if not path.name.startswith(".") and not os.path.exists(path)]


def _walk(top: Path, found: list[Path], linked: list[Path], seen: set[str]) -> None:
    """Adds what is in a folder, and which links to other folders there are."""
    folders = [top] if os.path.isdir(top) else []
    while folders:
        folder = folders.pop()
        if os.path.realpath(folder) in seen:
            continue
        seen.add(os.path.realpath(folder))
        try:
            with os.scandir(folder) as entries:
                shown = [entry for entry in entries if not entry.name.startswith(".")]
        except OSError:
            found.append(folder)
            continue
        for entry in sorted(shown, key=lambda entry: entry.name):
            path, link = Path(entry.path), entry.is_symlink()
            suffix = path.suffix.lower()
            if os.path.isdir(path) if link else entry.is_dir():
                (linked if link else folders).append(path)
            elif suffix in IMG_EXTENSIONS or (link and not suffix[1:].isalpha() and not os.path.exists(path)):
                found.append(path)
