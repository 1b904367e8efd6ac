"""What trains the fusion, and what each part of TMKD brings, over seeds, on the bundled digits.

    python examples/benchmarks/fusion_study.py --seeds 5

Trains two teachers, one on plain images and one on its views, then students on 100 digits under every condition, all
else equal. Prints test top-1 of the last epoch, mean and standard deviation over seeds, and the final fusion weights;
writes runs/fusion_study.json. The text teacher is the stand-in without visual meaning: nothing here says what
real view prompts would bring.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import warnings
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from record import write

from tmkd_lightning import ClassifierModule, TMKDModule
from tmkd_lightning.callbacks import PromptEmbeddings, TeacherAccuracyCheck
from tmkd_lightning.data import DigitsDataModule
from tmkd_lightning.distillers import KD
from tmkd_lightning.models import WideResNet
from tmkd_lightning.text import HashingTextEncoder

VIEWS = ["rgb", "edge", "high_frequency"]
PLAIN: dict[str, Any] = {"views": ["rgb"], "feature_weight": 0, "text_weight": 0}
CONDITIONS: dict[str, dict[str, Any] | None] = {
    "student alone": None,
    "KD": PLAIN,
    "KD + text": {"views": ["rgb"], "feature_weight": 0},
    "KD + feature": {"views": ["rgb"], "text_weight": 0},
    "KD, mean of views": {**PLAIN, "views": VIEWS, "fusion": "mean"},
    "KD, fused by distillation": {**PLAIN, "views": VIEWS, "fusion_objective": "distillation"},
    "KD, fused by label": {**PLAIN, "views": VIEWS},
    "KD + TMKD, by distillation": {"fusion_objective": "distillation"},
    "KD + TMKD, by label": {},
}


def sgd(params: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.05, momentum=0.9, weight_decay=5e-4)


def train(module: LightningModule, data: DigitsDataModule, epochs: int) -> Trainer:
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[PromptEmbeddings(HashingTextEncoder()), TeacherAccuracyCheck(0)]
        if isinstance(module, TMKDModule)
        else [],
    )
    trainer.fit(module, datamodule=data)
    return trainer


def top1(trainer: Trainer, module: LightningModule, data: DigitsDataModule) -> float:
    return 100 * trainer.test(module, datamodule=data, verbose=False)[0]["test/top1"]


def teacher(views: list[str]) -> tuple[dict[str, torch.Tensor], float]:
    seed_everything(0)
    data = DigitsDataModule(image_size=16)
    module = ClassifierModule(WideResNet(16, 2, 10), views=views, optimizer=sgd)
    trainer = train(module, data, epochs=8)
    return module.network.state_dict(), top1(trainer, module, data)


def student(options: dict[str, Any] | None, weights: dict[str, torch.Tensor], seed: int) -> tuple[float, list[float]]:
    seed_everything(seed)
    data = DigitsDataModule(image_size=16, train_samples=100, seed=seed)
    network = WideResNet(10, 1, 10)
    if options is None:
        module: LightningModule = ClassifierModule(network, optimizer=sgd)
    else:
        frozen = WideResNet(16, 2, 10)
        frozen.load_state_dict(weights)
        module = TMKDModule(frozen, network, distiller=KD(), optimizer=sgd, **options)
    trainer = train(module, data, epochs=40)
    shares = [
        trainer.callback_metrics[f"fusion/{view}"].item()
        for view in VIEWS
        if f"fusion/{view}" in trainer.callback_metrics
    ]
    return top1(trainer, module, data), shares


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    seeds = range(parser.parse_args().seeds)
    logging.getLogger("lightning").setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    results = []
    for taught_on, views in (("plain images", ["rgb"]), ("its views", VIEWS)):
        weights, accuracy = teacher(views)
        print(f"\nteacher trained on {taught_on}: {accuracy:.1f} %", flush=True)
        for name, options in CONDITIONS.items():
            runs = [student(options, weights, seed) for seed in seeds]
            scores = [score for score, _ in runs]
            shares = [round(statistics.mean(column), 2) for column in zip(*(s for _, s in runs), strict=True)]
            print(
                f"{name:<28}{statistics.mean(scores):6.2f} ± {statistics.stdev(scores):4.2f}  "
                f"{dict(zip(VIEWS, shares, strict=False)) if shares else ''}",
                flush=True,
            )
            results.append({"teacher": taught_on, "condition": name, "top1": scores, "fusion": shares})
    write("fusion_study", results)


if __name__ == "__main__":
    main()
