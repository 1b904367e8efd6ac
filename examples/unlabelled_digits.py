"""Ten labels and 789 unlabelled digits: a student that a teacher teaches on all of them, against the labelled alone.

    python examples/unlabelled_digits.py

Both students take the same number of steps, without and with a random view of each image. A table at the end has top-1
on 599 test digits after the last epoch, with the standard deviation over the seeds.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything

from tmkd_lightning import ClassifierModule, TMKDModule
from tmkd_lightning.callbacks import TeacherAccuracyCheck
from tmkd_lightning.data import DigitsDataModule
from tmkd_lightning.distillers import KD
from tmkd_lightning.models import WideResNet

VIEWS = ["rgb", "edge", "high_frequency"]
SHARES = [0.4, 0.3, 0.3]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1000)
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    teacher = WideResNet(depth=16, widen_factor=2, num_classes=10)
    everything = DigitsDataModule(image_size=16)
    seed_everything(0, verbose=False)
    taught = ClassifierModule(teacher, views=VIEWS, view_shares=SHARES, optimizer=sgd)
    print(f"teacher, all labels: {train(taught, everything, 800):.1%}")
    print(f"{'seed':<8}{'10 labels alone':>18}{'and 789 without':>18}{'on its views':>18}")
    rows = [run(teacher, seed, options.steps) for seed in range(options.seeds)]
    for seed, row in enumerate(rows):
        print(f"{seed:<8}" + "".join(f"{value:>18.1%}" for value in row))
    values = 100 * torch.tensor(rows)
    print(
        "mean    " + "".join(f"{f'{m:.1f} ± {s:.1f}':>18}" for m, s in zip(values.mean(0), values.std(0), strict=True))
    )


def run(teacher: WideResNet, seed: int, steps: int) -> list[float]:
    """Top-1 of three students of one seed."""
    labelled = DigitsDataModule(train_samples=10, image_size=16, batch_size=10, seed=seed)
    both = DigitsDataModule(train_samples=799, labelled_samples=10, image_size=16, seed=seed)
    distilled: dict[str, Any] = {"distiller": KD(), "feature_weight": 0, "text_weight": 0, "optimizer": sgd}
    results = []
    for views in (None, ["rgb"], VIEWS):
        seed_everything(seed, verbose=False)
        student = WideResNet(depth=10, widen_factor=1, num_classes=10)
        if views is None:
            results.append(train(ClassifierModule(student, optimizer=sgd), labelled, steps))
        else:
            shares = SHARES if len(views) > 1 else None
            seen = {"views": views, "fusion": "mean", "student_views": views, "student_view_shares": shares}
            results.append(train(TMKDModule(teacher, student, **seen, **distilled), both, steps))
    return results


def sgd(params: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.05, momentum=0.9, weight_decay=5e-4)


def train(module: LightningModule, data: DigitsDataModule, steps: int) -> float:
    """Trains for some steps, and returns top-1 on the test set."""
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        limit_val_batches=0,
        callbacks=[TeacherAccuracyCheck(0)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data)
    return trainer.test(module, datamodule=data, verbose=False)[0]["test/top1"]


if __name__ == "__main__":
    main()
