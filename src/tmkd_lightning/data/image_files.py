"""Image files as they come: opened by index, all turned into RGB with 8 bits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image, UnidentifiedImageError
from torch.utils.data import Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS

from tmkd_lightning.data.errors import DataError

FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
"""What is taken for an image. PIL knows more, some of which run other programs, as PostScript does."""


class ImageFiles(Dataset[tuple[Any, int]]):
    """Opens images by index and names the one that cannot be read.

    Greyscale, palette, CMYK and transparent images become RGB, 16 bits are scaled to 8, and of several frames the
    first is taken. What a file holds is read off its bytes, not off its suffix; it must be one of `FORMATS`.

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

    def check(self) -> Self:
        """Looks whether every file is there, without opening any.

        Raises:
            DataError: some are not; the message names the first and counts the rest.
        """
        there = {folder: _names(folder) for folder in {path.parent for path, _ in self.files}}
        missing = [path for path, _ in self.files if path.name not in there[path.parent]]
        if missing:
            rest = f", and {len(missing) - 1} more of {len(self.files)}" if len(missing) > 1 else ""
            raise DataError(f"image {missing[0]} is missing{rest}: unpack the data again, into an empty folder")
        return self

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        path, label = self.files[index]
        try:
            with Image.open(path, formats=FORMATS) as image:
                return _to_rgb(image), label
        except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(f"{path} cannot be read as an image ({error}): replace or remove it") from error


def images_below(folder: Path) -> list[Path]:
    """Paths of the images in a folder, at any depth, in alphabetical order; hidden files are passed over."""
    files = (path for path in folder.rglob("*") if path.suffix.lower() in IMG_EXTENSIONS and path.is_file())
    return sorted(path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or (image.mode == "I" and np.asarray(image).max(initial=0) >= 2**16):
        raise ValueError(f"its pixels are of mode {image.mode!r}, whose range is not known")
    if image.mode.startswith("I"):  # PIL would clip 16 bits at 255 instead of scaling them
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()
