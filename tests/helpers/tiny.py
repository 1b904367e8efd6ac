"""A small world for tests: coloured noise in three classes, and a network of a few thousand weights."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tmkd_lightning import PAPER, TMKDModule

CLASSES = ["red", "green", "blue"]
# all that TMKD has: its views and texts, with a fusion that is trained by the label
TMKD: dict[str, Any] = {**PAPER, "fusion_objective": "label"}
TABLES = Path(__file__).parents[2] / "examples" / "tables"

# a config that trains Net on digits of 16 pixels for two batches, and writes run/last.ckpt
FIT_DIGITS = """
trainer: {max_epochs: 1, limit_train_batches: 2, limit_val_batches: 2, accelerator: cpu, enable_progress_bar: false,
  logger: false, enable_model_summary: false,
  callbacks: [{class_path: lightning.pytorch.callbacks.ModelCheckpoint, init_args: {dirpath: run, filename: last}}]}
model:
  class_path: tmkd_lightning.ClassifierModule
  init_args: {network: {class_path: helpers.tiny.Net, init_args: {num_classes: 10}}}
data: {class_path: tmkd_lightning.data.DigitsDataModule, init_args: {image_size: 16}}
"""


class Net(nn.Module):
    """A classifier with a map: the smallest that has all an Output can hold."""

    def __init__(self, width: int = 8, num_classes: int = len(CLASSES)) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        return self.fc(self.relu(self.bn(self.conv(image))).mean((2, 3)))


def tmkd_module(*networks: nn.Module, **options: Any) -> TMKDModule:
    """With all of TMKD, unless options say otherwise."""
    return TMKDModule(*networks, **(TMKD | options))


def sgd(params: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.01)


def make_images(count: int, size: int = 8, seed: int = 0) -> list[tuple[Tensor, int]]:
    """uint8 noise in which the channel of the class is brighter."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 200, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    labels = [index % len(CLASSES) for index in range(count)]
    for image, label in zip(images, labels, strict=True):
        image[label] += 40
    return list(zip(images, labels, strict=True))
