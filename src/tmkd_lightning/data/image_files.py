"""Image files: found in folders, and opened by index as upright 8-bit RGB images."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import ExifTags, Image
from torch.utils.data import Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS

from tmkd_lightning.data.errors import DataError

FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
"""Formats that are read. PIL knows more, and runs other programs for some, such as PostScript."""

MAX_PIXELS = 178_956_970
"""Pixels of the largest image that is read: PIL's own limit, above which it assumes an attack."""

MAX_ASPECT_RATIO = 50
"""Longer side of an image over its shorter one. Resized by the shorter side, a longer image would take gigabytes."""

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by EXIF orientation; 1 is upright
_ORIENTATION_KEYS = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")  # in PIL's info

# PIL warns from half of MAX_PIXELS on, in every worker; above MAX_PIXELS there is an error, which names the file.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", "Corrupt EXIF data", UserWarning, r"PIL\.")  # such an image counts as upright


class ImageFiles(Dataset[tuple[Any, int]]):
    """Image files and their labels by index; an unreadable file raises an error that names it.

    Images are turned upright by their EXIF orientation, which is then removed. Greyscale, palette, CMYK and transparent
    images become RGB, 16 bits are scaled to 8, and of several frames the first is read. The format is read off the
    content, not the suffix; it must be one of `FORMATS`. Images of more than `MAX_PIXELS` pixels or
    `MAX_ASPECT_RATIO` are refused.

    Args:
        files: path and label of each image.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "grey.png"
        >>> Image.new("L", (4, 2), 7).save(path)
        >>> image, label = ImageFiles([(path, 3)])[0]
        >>> image.size, image.getpixel((0, 0)), label
        ((4, 2), (7, 7, 7), 3)
    """

    def __init__(self, files: list[tuple[Path, int]]) -> None:
        self.files = files

    @property
    def labels(self) -> list[int]:
        """Labels in the order of the images."""
        return [label for _, label in self.files]

    def select(self, indices: Sequence[int]) -> ImageFiles:
        """The images at some indices."""
        return ImageFiles([self.files[index] for index in indices])

    def check(self, remedy: str = "unpack the data again, into an empty folder") -> Self:
        """Raises a DataError with this remedy if files are missing; none is opened."""
        existing = {folder: _file_names(folder) for folder in {path.parent for path, _ in self.files}}
        missing = [path for path, _ in self.files if path.name not in existing[path.parent]]
        if missing:
            rest = f", and {len(missing) - 1} more of {len(self.files)}" if len(missing) > 1 else ""
            raise DataError(f"image {missing[0]} {file_problem(missing[0]) or 'is missing'}{rest}: {remedy}")
        return self

    def count_rotated(self) -> int:
        """Number of images with an EXIF orientation other than upright; their pixels are not decoded."""
        return sum(_is_rotated(path) for path, _ in self.files)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        path, label = self.files[index]
        try:
            if problem := file_problem(path):
                raise ValueError(f"it {problem}")
            with Image.open(path, formats=FORMATS) as image:
                _check_size(image)
                return _to_rgb(image), label
        except Exception as error:  # on damaged files, decoders raise errors of any kind
            cause = str(error) if isinstance(error, (OSError, SyntaxError, ValueError)) and str(error) else repr(error)
            raise DataError(f"{path} cannot be read as an image ({cause}): replace or remove it") from error


def file_problem(path: Path) -> str:
    """Why a path cannot be read as a file, or an empty string; it is not opened, as a pipe would block."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            os.listdir(path)  # raises if it cannot be read
            return "is a folder, not a file"
    except FileNotFoundError:
        return "is a link that leads nowhere" if path.is_symlink() else "is missing"
    except OSError as error:
        return f"cannot be accessed ({error})"
    return "" if stat.S_ISREG(mode) else "is a pipe, a socket or a device, not a file"


def _check_size(image: Image.Image) -> None:
    """Refuses an image that could exhaust the memory, before its pixels are decoded."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"it has {width}x{height} pixels, at most {MAX_PIXELS:,} are read")
    if max(image.size) > MAX_ASPECT_RATIO * min(image.size):
        raise ValueError(
            f"it has {width}x{height} pixels, and a side may be at most {MAX_ASPECT_RATIO} times the other"
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    image.load()  # first: PIL turns a TIFF upright here, and a PNG may store its orientation after its pixels
    transpose = _TRANSPOSE.get(_orientation(image))
    if image.mode == "F" or (image.mode == "I" and np.asarray(image).max(initial=0) >= 2**16):
        raise ValueError(f"its pixels are of mode {image.mode!r}, whose range is not known")
    if image.mode.startswith("I"):  # PIL would clip 16 bits at 255 instead of scaling them
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    image = image.convert("RGB")
    if transpose is None:
        return image
    image = image.transpose(transpose)
    for key in _ORIENTATION_KEYS:  # or a user's transform would turn it again
        image.info.pop(key, None)
    return image


def _orientation(image: Image.Image) -> int:
    """EXIF orientation; 1, upright, where it cannot be read, as in image viewers."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # on damaged tags, PIL raises errors of any kind
        return 1


def _is_rotated(path: Path) -> bool:
    try:
        if file_problem(path):
            return False
        with Image.open(path, formats=FORMATS) as image:
            return _orientation(image) in _TRANSPOSE
    except Exception:  # reading the image will raise the error
        return False


def _file_names(folder: Path) -> set[str]:
    """Names of the files in a folder, and of links to files."""
    if not folder.is_dir():
        return set()
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries if (entry.is_file(follow_symlinks=False) or os.path.isfile(entry))}


def find_images(folder: Path) -> list[Path]:
    """Finds everything with the suffix of an image, in alphabetical order; nothing if the folder is missing.

    Hidden files and folders are skipped. Linked folders are followed, each real folder once, so that circles end.
    Broken links and unreadable folders are in the result too: opening them by `ImageFiles` raises an error with their
    name, and nothing is dropped silently.
    """
    images: list[Path] = []
    links: list[Path] = [folder]
    visited: set[str] = set()
    for link in links:  # grows while it is walked; links come after all real folders
        _walk(link, images, links, visited)
    return sorted(images)


def is_broken_link(path: Path) -> bool:
    """Whether a path is a link that leads nowhere, or in a circle."""
    return path.is_symlink() and not os.path.exists(path)


def _walk(top: Path, images: list[Path], links: list[Path], visited: set[str]) -> None:
    """Adds the images below a folder to `images`, and linked folders to `links`."""
    folders = [top] if os.path.isdir(top) else []
    while folders:
        folder = folders.pop()
        if os.path.realpath(folder) in visited:
            continue
        visited.add(os.path.realpath(folder))
        try:
            names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
        except OSError:
            images.append(folder)
            continue
        for path in (folder / name for name in names):
            suffix = path.suffix.lower()
            if os.path.isdir(path):
                (links if path.is_symlink() else folders).append(path)
            elif suffix in IMG_EXTENSIONS or (is_broken_link(path) and not suffix[1:].isalpha()):
                images.append(path)
