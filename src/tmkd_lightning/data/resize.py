"""A smaller copy of a data set: decoding a large photo costs more than everything that is done to it later."""

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path

from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms import v2

from tmkd_lightning.data.errors import DataError
from tmkd_lightning.data.image_files import ImageFiles, file_problem
from tmkd_lightning.utils.files import atomic_write
from tmkd_lightning.utils.progress import progress
from tmkd_lightning.utils.validation import check_count


def resize_folder(source: Path, destination: Path, side: int = 256, workers: int = 2) -> list[str]:
    """Copies a folder as ``tmkd data resize`` does, and returns an error message for each file that cannot be read."""
    check_count("side", side)
    if not source.is_dir():
        raise DataError(f"no folder {source}: name one that holds images, at any depth")
    if destination.resolve().is_relative_to(source.resolve()):
        raise DataError(f"{destination} lies in {source}: choose a folder elsewhere")
    marker = destination / ".resized_to"
    is_copy = marker.is_file() and marker.read_text() == str(side)
    if not is_copy and destination.is_dir() and any(destination.iterdir()):
        raise DataError(f"{destination} holds something other than copies of {side} pixels: choose an empty folder")
    with atomic_write(marker) as file:
        file.write(str(side).encode())
    paths = sorted(_files(source))
    targets = [destination / path.relative_to(source) for path in paths]
    with ThreadPoolExecutor(workers) as pool:
        copies = pool.map(_copy, paths, targets, repeat(side))
        return [problem for problem in progress(copies, "Copying", len(paths), "files") if problem]


def _files(folder: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """All files below a folder; linked folders are followed unless they lead back up."""
    real = os.path.realpath(folder)
    for path in folder.iterdir() if real not in above else ():
        if path.is_dir() and not path.name.startswith("."):
            yield from _files(path, (*above, real))
        elif not path.name.startswith(".") and not path.name.lower().endswith((".gz", ".tar", ".tgz", ".zip")):
            yield path


def _copy(path: Path, target: Path, side: int) -> str:
    """Copies one file, and gives an error message if it cannot be read."""
    if target.exists() and target.stat().st_mtime >= path.stat().st_mtime:  # not of an image that was replaced
        return ""
    if problem := file_problem(path):
        return f"{path} {problem}"
    image, suffix = None, path.suffix.lower()
    if suffix in IMG_EXTENSIONS:
        try:
            image, _ = ImageFiles([(path, 0)])[0]
        except DataError as error:
            return str(error)
    with atomic_write(target) as file:
        if image is None or min(image.size) <= side:
            with path.open("rb") as original:
                shutil.copyfileobj(original, file)
            return ""
        profile = image.info.get("icc_profile") or b""
        if profile[16:20] != b"RGB ":  # of CMYK or greyscale, which the image is no more
            profile = None
        image = v2.functional.resize(image, [side], antialias=True)
        kind = Image.registered_extensions()[suffix]
        image.save(file, kind, quality=95, subsampling=0, icc_profile=profile)  # JPEG: a colour for each pixel
    return ""
