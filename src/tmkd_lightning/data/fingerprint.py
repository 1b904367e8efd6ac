"""What training images are, by content: whoever stores something about them must notice when they change."""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tmkd_lightning.data.errors import DataError
from tmkd_lightning.data.image_files import ImageFiles
from tmkd_lightning.data.manifest import digest_of
from tmkd_lightning.data.sampling import Seeded
from tmkd_lightning.utils.fingerprint import fingerprint

_THREADS = 4
_READ = b"upright\n"  # how `ImageFiles` makes pixels of bytes: what was stored of other pixels is not these images'
_PROBES = 32  # images that are augmented to see what the augmentation does


def training_identity(dataset: Seeded) -> dict[str, Any]:
    """Says what decides the pixels of each of a dataset's images.

    Args:
        dataset: of training images, with replicas.

    Returns:
        Plain values, digests among them: of the raw images and labels, the transform, and a few augmented images.

    Raises:
        DataError: an image differs when it is augmented once more.
    """
    augmented = augmentation_digest(dataset)  # first: what the transform imports as it runs is there then
    return {
        "images": len(dataset),
        "content": content_digest(dataset.samples),
        "replicas": dataset.replicas,
        "transform": fingerprint(dataset.transform, "train_transform"),
        "augmented": augmented,
    }


def content_digest(samples: Any) -> str:
    """Digests all raw images and labels in their order; of image files the bytes, without decoding them.

    Args:
        samples: gives raw image and label by index.

    Returns:
        Hexadecimal digits.

    Raises:
        DataError: an image cannot be read.

    Example:
        >>> data = [(np.zeros((2, 2)), 1)]
        >>> content_digest(data) == content_digest([(np.zeros((2, 2)), 2)])
        False
    """
    if isinstance(samples, ImageFiles):
        paths = [path for path, _ in samples.files]
        with ThreadPoolExecutor(_THREADS) as threads:
            files = zip(_shown(threads.map(_of_file, paths), len(paths)), samples.labels, strict=True)
            return _digest(files, hashlib.sha256(_READ))
    read = (samples[index] for index in range(len(samples)))
    return _digest((_of_pixels(image), label) for image, label in _shown(read, len(samples)))


def augmentation_digest(dataset: Seeded) -> str:
    """Augments a few images of each of the first replicas, and looks whether they would come out the same again.

    Raises:
        DataError: other generators than torch's were drawn from, or an image differs when it is augmented once more.
    """
    indices = np.linspace(0, len(dataset) - 1, min(_PROBES, len(dataset))).astype(int).tolist()
    drawn = hashlib.sha256()
    for place, index in enumerate(indices):
        before = _other_generators()
        once, again = (_of_pixels(dataset.draw(place % dataset.replicas, index)[0]) for _ in range(2))
        if once != again or _other_generators() != before:
            raise DataError(
                "train_transform does not give the same image twice under one seed: it draws from a generator other "
                "than torch's (numpy's or Python's, perhaps), so its images cannot come again; draw with torch"
            )
        drawn.update(once.encode())
    return drawn.hexdigest()


def _other_generators() -> str:
    return f"{random.getstate()} {np.random.get_state(legacy=False)}"  # of NumPy's, enough of the numbers and the place


def _of_file(path: Path) -> str:
    try:
        return digest_of(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}): unpack the data again") from error


def _of_pixels(image: Any) -> str:
    pixels = np.ascontiguousarray(image)
    return hashlib.sha256(f"{pixels.shape} {pixels.dtype}".encode() + pixels.tobytes()).hexdigest()


def _digest(parts: Iterable[tuple[str, int]], whole: Any = None) -> str:
    whole = whole or hashlib.sha256()
    for content, label in parts:
        whole.update(f"{content} {label}\n".encode())
    return whole.hexdigest()


def _shown(items: Iterable[Any], total: int) -> Iterable[Any]:
    hidden = not sys.stderr.isatty()
    progress: Iterable[Any] = tqdm(
        items, "Reading the training images", total, unit="image", disable=hidden, leave=False
    )
    return progress
