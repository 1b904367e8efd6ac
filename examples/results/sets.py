"""The two sets of the study: their photos, teachers and students."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from birds import Birds
from conditions import METHODS, SHARES, TEACHERS
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from photos import TEACHER, TRAIN, Photos
from stored import StoredViews
from student import Small
from torch import nn

from tmkd_lightning import ClassifierModule, Extractor
from tmkd_lightning.data.datamodules.base import ImageDataModule
from tmkd_lightning.models import WideResNet, load_weights
from tmkd_lightning.views import RandomView

SEEN = 64  # pixels a side, of a bird that a student sees
REPLICAS = 8  # crops and flips that come again, so that the teacher's answers are stored


@dataclass(frozen=True)
class ImageSet(ABC):
    """Where a set lies, what is made from it, and whether it is measured on held-out training images."""

    root: Path
    folder: Path  # for what is made: weights, caches, copies
    held_out: bool = False
    precision: Any = "32-true"  # Lightning's

    makes = ""  # name of the folder for what is made, which sets may share
    epochs = 60
    lr = 0.1
    methods: tuple[str, ...] = tuple(METHODS)
    further = True  # whether all controls are run

    @abstractmethod
    def data(self) -> ImageDataModule:
        """Training and test images of the students; read once in each process."""

    @abstractmethod
    def teacher(self, name: str) -> nn.Module:
        """A trained teacher, of plain images (``rgb``) or of its views."""

    @abstractmethod
    def student(self) -> nn.Module:
        """A student from random weights."""

    def shown(self, views: RandomView) -> RandomView:
        """What shows the student the training images; these views, or the same of images that are kept."""
        return views


class CIFAR10(ImageSet):
    """400 images of each class for the student, 2,500 others for the teachers, which are trained here."""

    makes = "cifar10"
    teacher_epochs = 16

    def data(self) -> ImageDataModule:
        return _photos(self.root, self.held_out)

    def teacher(self, name: str) -> nn.Module:
        network, weights = WideResNet(depth=10, widen_factor=2, num_classes=10), self.folder / f"teacher_{name}.pt"
        if not weights.exists():
            seed_everything(0, verbose=False)
            views = TEACHERS[name]
            shares, optimisation = SHARES if len(views) > 1 else None, optimisation_of(self.lr, self.teacher_epochs)
            module = ClassifierModule(network, views=views, view_shares=shares, **optimisation)
            data = Photos(self.root, TEACHER, self.held_out, replicas=0)
            fit(module, data, self.teacher_epochs, self.precision)
            torch.save(network.state_dict(), weights)
        network.load_state_dict(torch.load(weights, weights_only=True))
        return network

    def student(self) -> nn.Module:
        return Small()


class CUB50(ImageSet):
    """1,500 birds, eight crops of each an epoch; teachers that were fine-tuned on them at 224 px; students at 64 px."""

    makes = "cub50"
    epochs = 8
    further = False

    def data(self) -> ImageDataModule:
        return _birds(self.root, self.folder)

    def teacher(self, name: str) -> nn.Module:
        extractor = Extractor(timm.create_model("tf_efficientnet_lite0", num_classes=50))
        trained = {"rgb": "rgb", "views": "multi"}[name]
        load_weights(extractor, self.root / f"cub50_tf_efficientnet_lite0_{trained}_seed0.safetensors")
        return extractor

    def student(self) -> nn.Module:
        return Extractor(Small(num_classes=50), image_size=SEEN)

    def shown(self, views: RandomView) -> RandomView:
        return StoredViews(views, (SEEN, SEEN), self.folder / "seen", self.data().samples("train").images)


class PretrainedCUB50(CUB50):
    """The same birds for a student that comes from ImageNet: the teacher's network, at 64 px."""

    epochs = 2
    lr = 0.02
    methods = ("kd",)

    def student(self) -> nn.Module:
        extractor = Extractor(timm.create_model("tf_efficientnet_lite0", num_classes=50), image_size=SEEN)
        load_weights(extractor, self.root / "tf_efficientnet_lite0_imagenet.safetensors")  # but for the head
        return extractor


SETS: dict[str, type[ImageSet]] = {"cifar10": CIFAR10, "cub50": CUB50, "cub50_pretrained": PretrainedCUB50}


@functools.cache
def _photos(root: Path, held_out: bool) -> Photos:
    return Photos(root, TRAIN, held_out, replicas=REPLICAS)


@functools.cache
def _birds(root: Path, folder: Path) -> Birds:
    return Birds(root, folder)


def optimisation_of(lr: float, epochs: int) -> dict[str, Any]:
    """SGD whose learning rate falls with a cosine."""
    return {
        "optimizer": lambda params: torch.optim.SGD(params, lr=lr, momentum=0.9, weight_decay=5e-4),
        "lr_scheduler": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs),
    }


def fit(
    module: LightningModule, data: ImageDataModule, epochs: int, precision: Any, callbacks: Sequence[Callback] = ()
) -> Trainer:
    """Trains on a CPU, and keeps nothing but the trainer."""
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        precision=precision,
        logger=False,
        limit_val_batches=0,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data)
    return trainer
