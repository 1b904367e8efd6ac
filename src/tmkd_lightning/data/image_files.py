"""Image files: found in folders, and opened by index as upright 8-bit RGB images."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from PIL import ExifTags, Image
from torch.utils.data import Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS

from tmkd_lightning.data.errors import DataError

FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")  # PIL runs other programs for some formats

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by EXIF orientation; 1 is upright

# PIL warns in every worker from half of the pixels on at which it refuses an image
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", "Corrupt EXIF data", UserWarning, r"PIL\.")  # such an image counts as upright


class ImageFiles(Dataset[tuple[Any, int]]):
    """Image files and their labels by index; an unreadable file raises an error that names it.

    Images are turned upright by their EXIF orientation, which is then removed. Greyscale, palette, CMYK and transparent
    images become RGB, 16 bits are scaled to 8, and of several frames the first is read. The format is read off the
    content: JPEG, PNG, PPM, BMP, TIFF, WebP or GIF. Images of more than 178,956,970 pixels, or with a side more than 50
    times the other, are refused.

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
        missing = [path for path, _ in self.files if not os.path.isfile(path)]
        if missing:
            rest = f", and {len(missing) - 1} more of {len(self.files)}" if len(missing) > 1 else ""
            raise DataError(f"image {missing[0]} {file_problem(missing[0])}{rest}: {remedy}")
        return self

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        path, label = self.files[index]
        try:
            if problem := file_problem(path):
                raise ValueError(f"it {problem}")
            return open_rgb(path), label
        except Exception as error:  # on damaged files, decoders raise errors of any kind
            reason = str(error) or repr(error)
            raise DataError(f"{path} cannot be read as an image ({reason}): replace or remove it") from error


def open_rgb(file: Path | IO[bytes]) -> Image.Image:
    """Reads an image file as `ImageFiles` does; on damaged ones, PIL raises errors of any kind."""
    with Image.open(file, formats=FORMATS) as image:
        if max(image.size) > 50 * min(image.size):  # resized by its shorter side, it would take gigabytes
            size = f"{image.width}x{image.height}"
            raise ValueError(f"it has {size} pixels, and a side may be at most 50 times the other")
        return _to_rgb(image)


def file_problem(path: Path) -> str:
    """Why a path cannot be read as a file, or an empty string; it is not opened, as a pipe would block."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "is a link that leads nowhere" if path.is_symlink() else "is missing"
    except OSError as error:
        return f"cannot be accessed ({error})"
    if stat.S_ISDIR(mode):
        return "is a folder, not a file" if os.access(path, os.R_OK) else "is a folder that cannot be accessed"
    return "" if stat.S_ISREG(mode) else "is a pipe, a socket or a device, not a file"


def is_broken_link(path: Path) -> bool:
    """Whether a path is a link that leads nowhere, or in a circle."""
    return path.is_symlink() and not os.path.exists(path)


def find_images(folder: Path) -> list[Path]:
    """Finds everything with the suffix of an image, in alphabetical order; nothing if the folder is missing.

    Hidden files and folders are skipped. Linked folders are followed, each real folder once, so that circles end.
    Broken links and unreadable folders are in the result too: opening them by `ImageFiles` raises an error with their
    name, and nothing is dropped silently.
    """
    if not os.path.isdir(folder):
        return []
    images: list[Path] = []
    visited: set[str] = set()
    for top, folders, names in os.walk(folder, followlinks=True, onerror=lambda e: images.append(Path(e.filename))):
        if os.path.realpath(top) in visited:
            folders.clear()
            continue
        visited.add(os.path.realpath(top))
        visible = [name for name in folders if not name.startswith(".")]
        folders[:] = sorted(visible, key=lambda name: (os.path.islink(os.path.join(top, name)), name))
        for path in (Path(top, name) for name in names if not name.startswith(".")):
            suffix = path.suffix.lower()
            if suffix in IMG_EXTENSIONS or (is_broken_link(path) and not suffix[1:].isalpha()):
                images.append(path)
    return sorted(images)


def _to_rgb(image: Image.Image) -> Image.Image:
    image.load()  # first: PIL turns a TIFF upright here, and a PNG may store its orientation after its pixels
    transpose = _TRANSPOSE.get(_orientation(image))
    if image.mode == "F" or (image.mode == "I" and np.asarray(image).max(initial=0) >= 2**16):
        raise ValueError(f"its pixels are of mode {image.mode!r}, whose range is not known")
    if image.mode.startswith("I"):  # PIL would clip 16 bits at 255 instead of scaling them
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    image = image.convert("RGB")
    if transpose is not None:
        image = image.transpose(transpose)
        for key in ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"):  # or a transform would turn it again
            image.info.pop(key, None)
    return image


def _orientation(image: Image.Image) -> int:
    """EXIF orientation; 1, upright, where it cannot be read, as in image viewers."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # on damaged tags, PIL raises errors of any kind
        return 1
