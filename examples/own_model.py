"""A network of your own as the student: any module from normalised images to logits. Run it as it is."""

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from tmkd_lightning import Extractor, TMKDModule
from tmkd_lightning.data import DigitsDataModule
from tmkd_lightning.distillers import KD
from tmkd_lightning.models import resnet18


class TwoHeads(nn.Module):
    """Gives classes and a quality score, as networks do that were made for more than one thing."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU())
        self.classes = nn.Linear(32, num_classes)
        self.quality = nn.Linear(32, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        pooled = self.body(image).mean((2, 3))
        return self.classes(pooled), self.quality(pooled)


class ClassesOnly(TwoHeads):
    """What the library needs: one tensor of logits."""

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image)[0]


if __name__ == "__main__":
    # The last linear layer is not the head here, so it is named; the map before it is found by itself.
    student = Extractor(ClassesOnly(num_classes=10), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), head="classes")
    module = TMKDModule(
        resnet18(num_classes=10),  # your trained teacher; this one is untrained, and the run says so
        student,
        distiller=KD(),
        optimizer=lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9),
    )
    Trainer(max_epochs=1, logger=False, enable_checkpointing=False).fit(
        module, datamodule=DigitsDataModule(train_samples=200, image_size=16)
    )
