"""The data of the study: CIFAR-10 as JPEG files, held in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from tmkd_lightning.data.datamodules.base import ImageDataModule

TRAIN, TEACHER, HELD_OUT = slice(0, 400), slice(400, 2900), slice(4500, 5000)  # of each class's training images


def crop_and_flip(image: Tensor) -> Tensor:
    """A random crop of an image that has 4 more pixels on each side, flipped or not; RandomCrop takes longer."""
    top, left, flipped = torch.randint(0, 18, (3,)).tolist()
    crop = image[:, top // 2 : top // 2 + 32, left // 2 : left // 2 + 32]
    return crop.flip(2) if flipped < 9 else crop.contiguous()


class Photos(ImageDataModule):
    """Some images of every class, decoded once; measured on the whole test set, or on held-out training images."""

    def __init__(self, root: Path, images: slice, held_out: bool, replicas: int, seed: int = 0) -> None:
        super().__init__(
            batch_size=128,
            num_workers=0,
            image_size=32,
            seed=seed,
            augmentation_replicas=replicas,
            train_transform=crop_and_flip,
            eval_transform=nn.Identity(),
        )
        self.root = root
        self.parts = {"train": ("train", images), "test": ("train", HELD_OUT) if held_out else ("test", slice(None))}
        self._read: dict[str, list[tuple[Tensor, int]]] = {}

    @property
    def class_names(self) -> list[str]:
        return sorted(folder.name for folder in (self.root / "train").iterdir())

    def files(self, split: str) -> list[tuple[Path, int]]:
        """Photos and labels."""
        folder, part = self.parts[split]
        folders = [self.root / folder / name for name in self.class_names]
        return [(path, label) for label, folder in enumerate(folders) for path in _part(folder, part)]

    def samples(self, split: str) -> list[tuple[Tensor, int]]:
        if split == "val":
            return []  # nothing is chosen by validation: every number is of the last epoch
        if split not in self._read:
            images = [
                (v2.functional.pil_to_tensor(Image.open(path).convert("RGB")), label)
                for path, label in self.files(split)
            ]
            padded = [(v2.functional.pad(image, [4]), label) for image, label in images]
            self._read[split] = padded if split == "train" else images
        return self._read[split]


def digest(files: Iterable[tuple[Path, int]], root: Path) -> str:
    """Tells photos and labels from others by their content, wherever the root lies."""
    found = hashlib.sha256()
    for path, label in files:
        found.update(f"{path.relative_to(root)} {label} {path.stat().st_size}\n".encode())
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def _part(folder: Path, part: slice) -> list[Path]:
    files = sorted(folder.iterdir())
    if part.stop is not None and len(files) < part.stop:
        raise ValueError(f"{folder} has {len(files)} images, and the study takes those up to {part.stop}")
    return files[part]
