"""Image files as they come: opened by index, all turned upright and into RGB with 8 bits."""

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

from tmkd_lightning.data.errors import DataError

FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
"""What is taken for an image. PIL knows more, some of which run other programs, as PostScript does."""

MOST_PIXELS = 178_956_970
"""Pixels of the largest image that is read; PIL's own limit, above which it takes a file for an attack."""

LONGEST = 50
"""How many times as long as the other a side may be. Resized by its short side, a longer image costs gigabytes."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # what shows an image upright that was stored in an orientation of EXIF; 1 is upright
_TELL_ORIENTATION = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")  # parts of PIL's info

# Half of MOST_PIXELS makes PIL warn, in every process that loads; above it there is one error, which names the file.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", "Corrupt EXIF data", UserWarning, r"PIL\.")  # such an image counts as upright


class ImageFiles(Dataset[tuple[Any, int]]):
    """Opens images by index and names the one that cannot be read.

    Images are upright, as EXIF says how they are to be shown; what a transform is given says no orientation any more.
    Greyscale, palette, CMYK and transparent images become RGB, 16 bits are scaled to 8, and of several frames the
    first is taken. What a file holds is read off its bytes, not off its suffix; it must be one of `FORMATS`, and have
    at most `MOST_PIXELS` and no side more than `LONGEST` times the other.

    Args:
        files: path and label of each image.
        originals: what the files are copies of, where they are.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "grey.png"
        >>> Image.new("L", (4, 2), 7).save(path)
        >>> image, label = ImageFiles([(path, 3)])[0]
        >>> image.size, image.getpixel((0, 0)), label
        ((4, 2), (7, 7, 7), 3)
    """

    def __init__(self, files: list[tuple[Path, int]], originals: list[Path] | None = None) -> None:
        self.files = files
        self.originals = [path for path, _ in files] if originals is None else originals

    @property
    def labels(self) -> list[int]:
        """Labels in the order of the images."""
        return [label for _, label in self.files]

    def select(self, indices: Sequence[int]) -> ImageFiles:
        """The images at some indices."""
        return ImageFiles([self.files[index] for index in indices])

    def check(self, remedy: str = "unpack the data again, into an empty folder") -> Self:
        """Looks whether every file is there, without opening any.

        Args:
            remedy: what helps where one is not, for the message.

        Raises:
            DataError: some are missing, links that lead nowhere, or no files; the message names the first and counts
                the rest.
        """
        there = {folder: _names(folder) for folder in {path.parent for path, _ in self.files}}
        missing = [path for path, _ in self.files if path.name not in there[path.parent]]
        if missing:
            rest = f", and {len(missing) - 1} more of {len(self.files)}" if len(missing) > 1 else ""
            raise DataError(f"image {missing[0]} {why_no_file(missing[0]) or 'is missing'}{rest}: {remedy}")
        return self

    def turned(self) -> int:
        """How many originals carry another orientation than upright; their pixels are not decoded."""
        return sum(map(_is_turned, self.originals))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        path, label = self.files[index]
        try:
            if problem := why_no_file(path):
                raise ValueError(f"it {problem}")
            with Image.open(path, formats=FORMATS) as image:
                _check_cost(image)
                return _to_rgb(image), label
        except Exception as error:  # on foreign bytes a decoder raises whatever it comes to
            cause = str(error) if isinstance(error, (OSError, SyntaxError, ValueError)) and str(error) else repr(error)
            raise DataError(f"{path} cannot be read as an image ({cause}): replace or remove it") from error


def why_no_file(path: Path) -> str:
    """Says what stands in the way of reading a file; it is not opened, as a pipe would be waited for without end.

    Args:
        path: of the file.

    Returns:
        The reason, or nothing if it is a file.

    Example:
        >>> why_no_file(Path("no such")), why_no_file(Path(os.devnull)), why_no_file(Path(os.__file__))
        ('is missing', 'is a pipe, a socket or a device, not a file', '')
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            os.listdir(path)  # or says why not
            return "is a folder, not a file"
    except FileNotFoundError:
        return "is a link that leads nowhere" if path.is_symlink() else "is missing"
    except OSError as error:
        return f"cannot be looked at ({error})"
    return "" if stat.S_ISREG(mode) else "is a pipe, a socket or a device, not a file"


def _check_cost(image: Image.Image) -> None:
    """Refuses an image that could take a process's memory; its pixels are not decoded yet."""
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise ValueError(f"it has {width}x{height} pixels, at most {MOST_PIXELS:,} are read")
    if max(image.size) > LONGEST * min(image.size):
        raise ValueError(f"it has {width}x{height} pixels, and a side may be at most {LONGEST} times the other")


def _to_rgb(image: Image.Image) -> Image.Image:
    image.load()  # first: PIL turns a TIFF upright here, and a PNG may tell its orientation behind its pixels
    turn = _TURNS.get(_orientation(image))
    if image.mode == "F" or (image.mode == "I" and np.asarray(image).max(initial=0) >= 2**16):
        raise ValueError(f"its pixels are of mode {image.mode!r}, whose range is not known")
    if image.mode.startswith("I"):  # PIL would clip 16 bits at 255 instead of scaling them
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    image = image.convert("RGB")
    if turn is None:
        return image
    image = image.transpose(turn)
    for name in _TELL_ORIENTATION:  # or a transform that turns images upright would turn it again
        image.info.pop(name, None)
    return image


def _orientation(image: Image.Image) -> int:
    """As EXIF has it, 1 for upright; what cannot be understood is taken for that, as viewers do."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # on damaged tags PIL raises whatever it comes to
        return 1


def _is_turned(path: Path) -> bool:
    try:
        if why_no_file(path):
            return False
        with Image.open(path, formats=FORMATS) as image:
            return _orientation(image) in _TURNS
    except Exception:  # reading it tells what is wrong
        return False


def _names(folder: Path) -> set[str]:
    """Of the files in a folder; a link counts if it leads to one."""
    if not folder.is_dir():
        return set()
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries if (entry.is_file(follow_symlinks=False) or os.path.isfile(entry))}
