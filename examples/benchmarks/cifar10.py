"""One run on CIFAR-10: a teacher, a student alone, and a student by KD with TMKD; seconds an epoch and top-1.

    python examples/benchmarks/cifar10.py --root data/cifar10 --epochs 5

The root holds train/<class>/ and test/<class>/. WRN-40-2 teaches WRN-16-2, with hashed texts, one seed and few epochs:
it shows that the whole way works on this machine and what it takes, not what TMKD gains. Writes runs/cifar10.json.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from typing import Any

from cache import Epochs
from common import TMKD, now, report, silent_trainer
from lightning.pytorch import Callback, LightningModule, seed_everything
from torch import Tensor
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR

from tmkd_lightning import ClassifierModule, TMKDModule
from tmkd_lightning.callbacks import PromptEmbeddings, TeacherAccuracyCheck
from tmkd_lightning.data import ImageFolderDataModule
from tmkd_lightning.distillers import KD
from tmkd_lightning.models import wrn_16_2, wrn_40_2
from tmkd_lightning.text import HashingTextEncoder

SHARES = [0.6, 0.2, 0.2]  # of the views in the teacher's training


def fit(name: str, module: LightningModule, options: argparse.Namespace, *callbacks: Callback) -> dict[str, Any]:
    """Trains and tests; a row of the table."""
    data = ImageFolderDataModule(
        options.root, image_size=32, batch_size=options.batch_size, num_workers=options.workers
    )
    timed = Epochs(now)
    limits = {"limit_train_batches": options.batches, "limit_test_batches": options.batches}
    trainer = silent_trainer(options.epochs, [timed, *callbacks], **limits)
    trainer.fit(module, datamodule=data)
    (tested,) = trainer.test(module, datamodule=data, verbose=False)
    row = {"network": name, "seconds, first epoch": timed.seconds[0]}
    return row | {"seconds, later ones": statistics.median(timed.seconds[1:]), "top-1 %": 100 * tested["test/top1"]}


def sgd(params: list[Tensor]) -> SGD:
    return SGD(params, lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True)
    parser.add_argument("--epochs", type=int, default=5, help="at least 2")
    parser.add_argument("--batches", type=int, default=None, help="of an epoch and of the test; all without it")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--workers", type=int, default=8)
    options = parser.parse_args()
    images = ImageFolderDataModule(options.root, batch_size=options.batch_size)
    images.setup("fit")
    steps = options.epochs * min(options.batches or len(images.train_dataloader()), len(images.train_dataloader()))
    optimisation: dict[str, Any] = {
        "optimizer": sgd,
        "lr_scheduler": lambda optimizer: OneCycleLR(optimizer, max_lr=0.1, total_steps=steps),
    }
    classes = images.num_classes
    seed_everything(0, verbose=False)
    teacher = wrn_40_2(num_classes=classes)
    views = ["rgb", "edge", "high_frequency"]
    module: LightningModule = ClassifierModule(teacher, views=views, view_shares=SHARES, **optimisation)
    rows = [fit("teacher, on its views", module, options)]
    rows.append(fit("student alone", ClassifierModule(wrn_16_2(num_classes=classes), **optimisation), options))
    with tempfile.TemporaryDirectory() as folder:
        callbacks = PromptEmbeddings(HashingTextEncoder(), cache_dir=folder), TeacherAccuracyCheck(0)
        module = TMKDModule(teacher, wrn_16_2(num_classes=classes), distiller=KD(), **TMKD, **optimisation)
        rows.append(fit("student by KD + TMKD", module, options, *callbacks))
    report("cifar10", rows)


if __name__ == "__main__":
    main()
