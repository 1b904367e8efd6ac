"""Smaller copies of large photos, made once: decoding a photo costs more than all that is done to it later."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info
from torchvision.transforms import v2
from tqdm import tqdm

from tmkd_lightning.data.errors import DataError
from tmkd_lightning.data.image_files import ImageFiles
from tmkd_lightning.data.manifest import Entry, digest_of, read_entries, to_line, write_entries
from tmkd_lightning.data.prepare import alone

_QUALITY = 95  # of JPEG, with a colour for each pixel: compact lossless formats are decoded slower than the originals
_FORMAT = 2  # to be raised when copies would be made differently: what is part of the folder's name makes new copies
_AT_ONCE = 256  # images that wait for a thread
_REMEDY = "make a folder of links to what is in {}, and let root be that folder; or leave resize_to out"


class ResizedCopies:
    """Copies of the images below a root whose short side is larger than wanted; the others are read themselves.

    They lie in ``<root>/.resized/<side>-jpeg95-2``, under the names of the originals, next to a manifest of what they
    were made from. A copy takes its name once it is complete, and then gets its line in the manifest: a process that is
    killed loses the few copies it had in hand. The folder may be removed at any time.

    Copies are JPEG of quality 95: on photos of birds, their values are 1.2 of 255 off on average. A random crop of a
    copy has fewer pixels than one of the original, so that training is not the same, though as well repeatable.

    Args:
        root: folder that all originals are below.
        side: short side of a copy in pixels.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> root = Path(tempfile.mkdtemp())
        >>> Image.new("RGB", (80, 40)).save(root / "large.png")
        >>> Image.new("RGB", (80, 20)).save(root / "small.png")
        >>> images = ImageFiles([(root / "large.png", 0), (root / "small.png", 1)])
        >>> copies = ResizedCopies(root, side=32)
        >>> copies.make([images])
        >>> [(image.size, label) for image, label in (copies.of(images)[index] for index in (0, 1))]
        [((64, 32), 0), ((80, 20), 1)]
    """

    def __init__(self, root: Path, side: int) -> None:
        self.root = root
        self.side = side
        self.folder = root / ".resized" / f"{side}-jpeg{_QUALITY}-{_FORMAT}"

    def make(self, images: Iterable[object]) -> None:
        """Makes the copies that are missing, damaged or of another original than there is now.

        Several processes may call this at once: one works, the others wait. If nothing is to be made, nothing is
        written.

        Args:
            images: originals, each an `ImageFiles`.

        Raises:
            DataError: an original cannot be read, images are no files below the root, or copies cannot be written; the
                message names the file, and the copies made so far are kept.
        """
        paths = {self._name(path): path for each in images for path, _ in _files(each)}
        try:
            if not self._outdated(paths):
                return
            with alone(self.folder, _REMEDY.format(self.root)):
                self._make(self._outdated(paths), len(paths))  # asked again, after waiting for another process
        except OSError as error:
            raise DataError(
                f"{self.folder} cannot be written to ({error}): make room; what was made so far is kept"
            ) from error

    def of(self, images: object) -> ImageFiles:
        """Puts copies in the place of originals, where there are any.

        Args:
            images: originals, an `ImageFiles`.

        Returns:
            As many images with the same labels, in the same order.

        Raises:
            DataError: an original was changed since, or `make` has not seen it.
        """
        entries = read_entries(self._manifest)
        files = []
        for path, label in _files(images):
            name = self._name(path)
            entry = entries.get(name)
            if entry is None or not entry.is_of(path):
                raise DataError(f"{path} is not the file that {self.folder} knows: call prepare_data() before setup")
            files.append((self.folder / name if entry.copy_size else path, label))
        return ImageFiles(files, [path for path, _ in _files(images)])

    @property
    def _manifest(self) -> Path:
        return self.folder / "manifest.jsonl"

    def _name(self, path: Path) -> str:
        if not path.is_relative_to(self.root) or ".." in path.parts[len(self.root.parts) :]:
            raise DataError(f"{path} does not lie in {self.root}: with resize_to, all images must")
        return path.relative_to(self.root).as_posix()

    def _outdated(self, paths: dict[str, Path]) -> dict[str, Path]:
        entries = read_entries(self._manifest)
        return {
            name: path
            for name, path in paths.items()
            if not (name in entries and entries[name].is_of(path) and self._is_whole(entries[name]))
        }

    def _is_whole(self, entry: Entry) -> bool:
        copy = self.folder / entry.name
        return not entry.copy_size or (copy.is_file() and copy.stat().st_size == entry.copy_size)

    def _make(self, paths: dict[str, Path], total: int) -> None:
        if not paths:
            return
        rank_zero_info(f"Resizing {len(paths)} of {total} images to {self.side} pixels, in {self.folder}")
        entries = read_entries(self._manifest)
        write_entries(self._manifest, entries.values())  # without a line that was cut off: others are added below

        def copy(name: str) -> Entry:
            return self._copy(name, paths[name], entries.get(name))

        names = list(paths)
        bar = tqdm(total=len(names), unit="image", desc=f"resize to {self.side}", disable=None)  # None: no terminal
        with open(self._manifest, "a") as manifest, ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool, bar:
            for start in range(0, len(names), _AT_ONCE):
                for entry in pool.map(copy, names[start : start + _AT_ONCE]):
                    manifest.write(to_line(entry))
                    manifest.flush()
                    bar.update()

    def _copy(self, name: str, path: Path, before: Entry | None) -> Entry:
        """Sees to one copy; it is kept if the original was only touched."""
        try:
            status = path.stat()  # before it is read: a change from here on is seen next time
            digest = digest_of(path)
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error}): replace or remove it") from error
        if before is not None and before.digest == digest and self._is_whole(before):
            size = before.copy_size
        else:
            size = self._write(name, path)
        return Entry(name, status.st_size, status.st_mtime_ns, digest, size)

    def _write(self, name: str, path: Path) -> int:
        """Writes one copy, if there is to be one, and gives its size in bytes."""
        image, _ = ImageFiles([(path, 0)])[0]
        if min(image.size) <= self.side:
            return 0
        copy = self.folder / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        mark = hashlib.blake2b(os.fsencode(copy.name), digest_size=16).hexdigest()  # the name may be as long as can be
        part = copy.with_name(f".{mark}.part")
        resized = v2.functional.resize(image, [self.side], antialias=True)
        resized.save(part, "JPEG", quality=_QUALITY, subsampling=0)
        size = part.stat().st_size
        os.replace(part, copy)
        return size


def resized_copies(root: Path, resize_to: int | None, image_size: int, own_eval: bool) -> ResizedCopies | None:
    """Makes what a datamodule reads copies by, if it shall.

    Args:
        root: folder that all originals are below.
        resize_to: short side of a copy in pixels; None to read the originals.
        image_size: side of the images that networks see, in pixels.
        own_eval: whether the datamodule's user gave an `eval_transform`.

    Returns:
        The copies, or None.

    Raises:
        ValueError: copies would be smaller than what is made of them: `image_size`, or before the usual central crop
            256/224 of it.

    Example:
        >>> resized_copies(Path("data"), 256, image_size=224, own_eval=False).folder.as_posix()
        'data/.resized/256-jpeg95-2'
        >>> resized_copies(Path("data"), 224, image_size=224, own_eval=False)
        Traceback (most recent call last):
        ValueError: resize_to must be at least 256 for an image_size of 224, got 224: images would be enlarged again
    """
    if resize_to is None:
        return None
    least = image_size if own_eval else round(image_size * 256 / 224)
    if resize_to < least:
        raise ValueError(
            f"resize_to must be at least {least} for an image_size of {image_size}, got {resize_to}: images would be "
            "enlarged again"
        )
    return ResizedCopies(root, resize_to)


def _files(images: object) -> list[tuple[Path, int]]:
    if not isinstance(images, ImageFiles):
        raise DataError(f"resize_to makes copies of image files, and {type(images).__name__} holds none")
    return images.files
