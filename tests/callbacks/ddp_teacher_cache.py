"""Trains in two processes, without and with a teacher cache, and writes both students. Run by test_teacher_cache.py.

With a second argument, "images", images are stored too, by two workers of each process.
"""

import sys
from pathlib import Path

import torch
from lightning.pytorch import seed_everything

from helpers.tiny import tmkd_module
from integration.ddp_equals_one import trainer
from tmkd_lightning.callbacks import TeacherCache
from tmkd_lightning.data import DigitsDataModule
from tmkd_lightning.distillers import CATKD
from tmkd_lightning.models import WideResNet


def train(directory: str) -> dict[str, torch.Tensor]:
    """The student that 41 images in two epochs make, with a cache where a directory is given."""
    seed_everything(0)
    module = tmkd_module(
        WideResNet(depth=10, widen_factor=2, num_classes=10),
        WideResNet(depth=10, widen_factor=1, num_classes=10),
        distiller=CATKD(),
        fusion="mean",
        text_weight=0,
        optimizer=lambda params: torch.optim.SGD(params, lr=0.01),
    )
    images = sys.argv[2:] == ["images"]
    callbacks = [TeacherCache(directory, dtype="float32", images=images)] if directory else []
    workers = 2 if images else 0
    data = DigitsDataModule(train_samples=41, image_size=16, batch_size=7, num_workers=workers, augmentation_replicas=1)
    trainer(2, max_epochs=2, callbacks=callbacks, limit_val_batches=0).fit(module, datamodule=data)
    return module.student.state_dict()


if __name__ == "__main__":
    students = {"live": train(""), "cached": train(f"{sys.argv[1]}/cache")}
    if torch.distributed.get_rank() == 0:
        torch.save(students, Path(sys.argv[1]) / "students.pt")
