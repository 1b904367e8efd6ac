"""Image files in batches, in which one that cannot be read or transformed is a message instead of an end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from tmkd_lightning.data import DataError
from tmkd_lightning.data.image_files import ImageFiles
from tmkd_lightning.data.transforms import Transform
from tmkd_lightning.utils.messages import short

Batch = list[Tensor | str]
"""For each file its image ``(3, H, W)``, or what is wrong with it."""


def image_batches(files: Sequence[Path], transform: Transform, batch_size: int, num_workers: int) -> Iterable[Batch]:
    """Loads images in the order of their files.

    Args:
        files: image files.
        transform: from a PIL image to a tensor ``(3, H, W)``, all of one size.
        batch_size: files in a batch, at least 1.
        num_workers: processes that load.

    Returns:
        Batches, each a `Batch`.

    Raises:
        ValueError: `batch_size` or `num_workers` is too low.
    """
    if batch_size < 1 or num_workers < 0:
        raise ValueError(f"batch_size must be >= 1 and num_workers >= 0, got {batch_size} and {num_workers}")
    images = _Images(files, transform)
    return DataLoader(images, batch_size, num_workers=num_workers, collate_fn=_collate)


class _Images(Dataset[Tensor | str]):
    def __init__(self, files: Sequence[Path], transform: Transform) -> None:
        self.images = ImageFiles([(path, 0) for path in files])
        self.transform = v2.Compose([transform, v2.PILToTensor()])  # some leave it to the images of their dataset

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor | str:
        try:
            image, _ = self.images[index]
        except DataError as error:
            return str(error)
        try:
            return _checked(self.transform(image))
        except Exception as error:  # it is the user's code, and may stumble over one image
            return str(DataError(f"{self.images.files[index][0]} cannot be transformed ({short(error, kind=True)})"))


def _checked(image: object) -> Tensor:
    if not isinstance(image, Tensor):
        raise TypeError(f"the transform gives a {type(image).__name__} instead of a tensor")
    if image.is_floating_point() and not image.isfinite().all():
        raise ValueError("the transform gives values that are not finite")
    return image


def _collate(items: list[Tensor | str]) -> Batch:
    return items
