"""The two sets of the study: their photos, teachers and students."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import timm
import torch
from birds import CLASSES, Birds
from conditions import SHARES, TEACHERS, Condition, compared, controls
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from photos import TEACHER, TRAIN, Photos
from stored import StoredViews
from student import Small
from torch import nn

from tmkd_lightning import ClassifierModule, Extractor
from tmkd_lightning.data.datamodules.base import ImageDataModule
from tmkd_lightning.models import WideResNet, load_weights
from tmkd_lightning.utils.files import atomic_write
from tmkd_lightning.views import RandomView

LITE0 = "tf_efficientnet_lite0"
SEEN = 64  # pixels a side, of a bird that a student sees
REPLICAS = 8  # crops and flips that come again, so that the teacher's answers are stored


@dataclass(frozen=True)
class ImageSet(ABC):
    """Where a set lies, what is made from it, and whether it is measured on held-out training images."""

    root: Path
    folder: Path  # for what is made: weights, caches, copies
    held_out: bool = False
    precision: Any = "32-true"  # Lightning's
    texts: str = ""  # what tells the text vectors from others

    makes = ""  # name of the folder for what is made, which sets may share
    vectors = ("", "")  # names of the arrays with a text vector for each class, and with the classes
    epochs, lr = 60, 0.1
    teacher_epochs, teacher_lr = 16, 0.1
    conditions: ClassVar[Sequence[Condition]] = ()

    @abstractmethod
    def data(self) -> Photos | Birds:
        """Training and test images of the students; read once in each process."""

    @abstractmethod
    def student(self) -> nn.Module:
        """A student from random weights."""

    @abstractmethod
    def teacher_data(self) -> Photos | Birds:
        """Training images of the teachers."""

    @abstractmethod
    def teacher_network(self) -> nn.Module:
        """A teacher without its weights."""

    def untrained_teacher(self) -> nn.Module:
        """What a teacher is trained from: random weights."""
        return self.teacher_network()

    def teacher_weights(self, name: str) -> Path:
        """The file of a teacher's weights."""
        return self.folder / f"teacher_{name}.pt"

    def teacher(self, name: str) -> nn.Module:
        """A teacher of plain images (``rgb``) or of its views (``views``); it is trained, if that was not done."""
        weights = self.teacher_weights(name)
        if not weights.exists():
            self._train_teacher(TEACHERS[name], weights)
        network = self.teacher_network()
        load_weights(network, weights)
        return network

    def _train_teacher(self, views: Sequence[str], weights: Path) -> None:
        seed_everything(0, verbose=False)
        network, shares = self.untrained_teacher(), SHARES if len(views) > 1 else None
        optimisation = optimisation_of(self.teacher_lr, self.teacher_epochs)
        module = ClassifierModule(network, views=views, view_shares=shares, **optimisation)
        fit(module, self.teacher_data(), self.teacher_epochs, self.precision)
        with atomic_write(weights) as file:
            torch.save(module.extractor.network.state_dict(), file)

    def shown(self, views: RandomView) -> RandomView:
        """What shows the student the training images; these views, or the same of images that are kept."""
        return views


class CIFAR10(ImageSet):
    """400 images of each class for the student, 2,500 others for the teachers."""

    makes, vectors = "cifar10", ("cifar10", "cifar10_names")
    conditions = (*compared(), *controls(), Condition("alone_twice_as_long", longer=2))

    def data(self) -> Photos:
        return _photos(self.root / "cifar10", self.held_out)

    def student(self) -> nn.Module:
        return Small()

    def teacher_data(self) -> Photos:
        return Photos(self.root / "cifar10", TEACHER, self.held_out, replicas=0)

    def teacher_network(self) -> nn.Module:
        return WideResNet(depth=10, widen_factor=2, num_classes=10)


class CUB50(ImageSet):
    """1,500 birds, eight crops of each an epoch, at 224 px for teachers that come from ImageNet, at 64 px for students.

    Teachers that are in the root, as those of the published runs were, are not trained anew.
    """

    makes, vectors = "cub50", ("clip_attr512", "names")
    epochs = 8
    teacher_epochs, teacher_lr = 2, 0.02
    conditions = (*compared(), *controls())

    def data(self) -> Birds:
        return _birds(self.root, self.folder)

    def student(self) -> nn.Module:
        return Extractor(Small(num_classes=CLASSES), image_size=SEEN)

    def teacher_data(self) -> Birds:
        return self.data()

    def teacher_network(self) -> nn.Module:
        return Extractor(timm.create_model(LITE0, num_classes=CLASSES))

    def untrained_teacher(self) -> nn.Module:
        return _from_imagenet(self.root)

    def teacher_weights(self, name: str) -> Path:
        given = self.root / f"cub50_{LITE0}_{'multi' if name == 'views' else name}_seed0.safetensors"
        return given if given.exists() else super().teacher_weights(name)

    def shown(self, views: RandomView) -> RandomView:
        return StoredViews(views, (SEEN, SEEN), self.folder / "seen", self.data().samples("train").images)


class PretrainedCUB50(CUB50):
    """The same birds for a student that comes from ImageNet: the teacher's network, at 64 px."""

    epochs, lr = 2, 0.02
    conditions = compared(["kd"])

    def student(self) -> nn.Module:
        return _from_imagenet(self.root, image_size=SEEN)


SETS: dict[str, type[ImageSet]] = {"cifar10": CIFAR10, "cub50": CUB50, "cub50_pretrained": PretrainedCUB50}


@functools.cache
def _photos(root: Path, held_out: bool) -> Photos:
    return Photos(root, TRAIN, held_out, replicas=REPLICAS)


@functools.cache
def _birds(root: Path, folder: Path) -> Birds:
    return Birds(root, folder)


def _from_imagenet(root: Path, image_size: int | None = None) -> Extractor:
    """EfficientNet-Lite0 from ImageNet with a new head; its weights are in the root, or timm fetches them."""
    file = root / f"{LITE0}_imagenet.safetensors"
    given = file.exists()
    network = Extractor(timm.create_model(LITE0, pretrained=not given, num_classes=CLASSES), image_size=image_size)
    if given:
        load_weights(network, file)  # but for the head
    return network


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
