"""The data of the study: CIFAR-10 as JPEG files, held in memory."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from tmkd_lightning.data.datamodules.base import ImageDataModule

_AUGMENTATION = v2.Compose([v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip()])


class Photos(ImageDataModule):
    """The first images of every class, decoded once; the whole test set."""

    def __init__(self, root: Path, images: int, seed: int = 0, augment: bool = False) -> None:
        super().__init__(
            batch_size=128,
            num_workers=0,
            image_size=32,
            seed=seed,
            augmentation_replicas=0 if augment else 1,  # images that stay as they are can come from a TeacherCache
            train_transform=_AUGMENTATION if augment else nn.Identity(),
            eval_transform=nn.Identity(),
        )
        self.root, self.images = root, images
        self._read: dict[str, list[tuple[Tensor, int]]] = {}

    @property
    def class_names(self) -> list[str]:
        return sorted(folder.name for folder in (self.root / "train").iterdir())

    def samples(self, split: str) -> list[tuple[Tensor, int]]:
        if split == "val":
            return []  # nothing is chosen by validation: every number is of the last epoch
        if split not in self._read:
            each = self.images // len(self.class_names) if split == "train" else None
            self._read[split] = [
                (v2.functional.pil_to_tensor(Image.open(path).convert("RGB")), label)
                for label, name in enumerate(self.class_names)
                for path in sorted((self.root / split / name).iterdir())[:each]
            ]
        return self._read[split]
