"""The data of the study: CIFAR-10 as JPEG files, held in memory."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from tmkd_lightning.data.datamodules.base import ImageDataModule

TRAIN, TEACHER, HELD_OUT = slice(0, 400), slice(400, 2900), slice(4500, 5000)  # of each class's training images
_AUGMENTATION = v2.Compose([v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip()])


class Photos(ImageDataModule):
    """Some images of every class, decoded once; measured on the whole test set, or on held-out training images."""

    def __init__(self, root: Path, images: slice, held_out: bool, replicas: int, seed: int = 0) -> None:
        super().__init__(
            batch_size=128,
            num_workers=0,
            image_size=32,
            seed=seed,
            augmentation_replicas=replicas,
            train_transform=_AUGMENTATION,
            eval_transform=nn.Identity(),
        )
        self.root = root
        self.parts = {"train": ("train", images), "test": ("train", HELD_OUT) if held_out else ("test", slice(None))}
        self._read: dict[str, list[tuple[Tensor, int]]] = {}

    @property
    def class_names(self) -> list[str]:
        return sorted(folder.name for folder in (self.root / "train").iterdir())

    def samples(self, split: str) -> list[tuple[Tensor, int]]:
        if split == "val":
            return []  # nothing is chosen by validation: every number is of the last epoch
        if split not in self._read:
            folder, part = self.parts[split]
            self._read[split] = [
                (v2.functional.pil_to_tensor(Image.open(path).convert("RGB")), label)
                for label, name in enumerate(self.class_names)
                for path in sorted((self.root / folder / name).iterdir())[part]
            ]
        return self._read[split]
