"""Fingerprints training images by their content, so that a teacher cache of other images is not used."""

import hashlib
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from tmkd_lightning.data.errors import DataError
from tmkd_lightning.data.image_files import ImageFiles, file_problem
from tmkd_lightning.data.sampling import SeededDataset
from tmkd_lightning.utils.files import sha256_of
from tmkd_lightning.utils.fingerprint import fingerprint
from tmkd_lightning.utils.progress import progress


def training_fingerprint(dataset: SeededDataset) -> dict[str, Any]:
    """Plain values that determine every training image: raw images, labels and augmentation.

    Args:
        dataset: with `replicas` of at least 1; its raw images are all read once.

    Returns:
        Number of ``images`` and of ``replicas``, and digests of what they hold, for a `TeacherCache`.

    Raises:
        ValueError: no augmentation of the dataset comes again.
        DataError: a file cannot be read, or the transform draws from another generator than torch's.
    """
    if not dataset.replicas:
        raise ValueError(
            "a TeacherCache needs images that come again: set augmentation_replicas of the datamodule, or replicas of "
            "the SeededDataset, to 1 or more (it is 0)"
        )
    augmented = augmentation_digest(dataset)  # first: the transform may import modules when it runs
    return {
        "images": len(dataset),
        "content": content_digest(dataset.samples),
        "replicas": dataset.replicas,
        "transform": fingerprint(dataset.transform, "train_transform"),
        "augmented": augmented,
    }


def content_digest(samples: Any) -> str:
    """Digest of all raw images and labels in their order; image files are not decoded."""

    def sample_digest(index: int) -> str:
        if not isinstance(samples, ImageFiles):
            image, label = samples[index]
            return f"{_pixel_digest(image)} {np.asarray(label).tolist()}\n"  # all digits of a distribution
        path, label = samples.files[index]
        if problem := file_problem(path):  # opening a pipe would block
            raise DataError(f"{path} cannot be read (it {problem}): unpack the data again")
        return f"{sha256_of(path)} {label}\n"

    digest = hashlib.sha256()
    threads = 4 if isinstance(samples, ImageFiles) else 1  # a dataset of one's own may not be safe in several
    with ThreadPoolExecutor(threads) as pool:
        parts = pool.map(sample_digest, range(len(samples)))
        for part in progress(parts, "Reading the training images", len(samples), "images"):
            digest.update(part.encode())
    return digest.hexdigest()


def augmentation_digest(dataset: SeededDataset) -> str:
    """Digest of 32 augmented images, and of the augmentation on the device.

    Raises:
        DataError: the images differ when they are augmented again under the same seed.
    """
    digest = hashlib.sha256(dataset.augmentation.fingerprint.encode() if dataset.augmentation else b"")
    indices = np.linspace(0, len(dataset) - 1, min(32, len(dataset))).astype(int).tolist()
    for place, index in enumerate(progress(indices, "Augmenting some training images", len(indices), "images")):
        before = random.getstate(), str(np.random.get_state(legacy=False))
        first, second = (_pixel_digest(_augmented(dataset, place % dataset.replicas, index)) for _ in range(2))
        if first != second or before != (random.getstate(), str(np.random.get_state(legacy=False))):
            raise DataError(
                "train_transform does not give the same image twice under one seed, or uses numpy's or Python's "
                "generator: draw with torch"
            )
        digest.update(first.encode())
    return digest.hexdigest()


def _augmented(dataset: SeededDataset, replica: int, index: int) -> Any:
    image = dataset.draw(replica, index)[0]
    if dataset.augmentation is None:
        return image
    return dataset.augmentation(image[None], *dataset.for_device(replica, index, image))[0]


def _pixel_digest(image: Any) -> str:
    pixels = np.ascontiguousarray(image)
    return hashlib.sha256(f"{pixels.shape} {pixels.dtype}".encode() + pixels.tobytes()).hexdigest()
