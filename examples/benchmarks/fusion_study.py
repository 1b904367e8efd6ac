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
from functools import partial
from typing import Any

import torch
from common import TMKD, VIEWS, report, sgd, silent_trainer
from lightning.pytorch import LightningModule, Trainer, seed_everything

from tmkd_lightning import ClassifierModule, TMKDModule
from tmkd_lightning.callbacks import PromptEmbeddings, TeacherAccuracyCheck
from tmkd_lightning.data import DigitsDataModule
from tmkd_lightning.distillers import KD
from tmkd_lightning.models import WideResNet
from tmkd_lightning.text import HashingTextEncoder

OPTIMIZER = partial(sgd, lr=0.05)
PLAIN: dict[str, Any] = {"views": ["rgb"], "feature_weight": 0, "text_weight": 0}
CONDITIONS: dict[str, dict[str, Any] | None] = {
    "student alone": None,
    "KD": PLAIN,
    "KD + text": {**PLAIN, "text_weight": TMKD["text_weight"]},
    "KD + feature": {**TMKD, "views": ["rgb"], "text_weight": 0},
    "KD + strong feature, the default": {},
    "KD, mean of views": {**PLAIN, "views": VIEWS, "fusion": "mean"},
    "KD, fused by distillation": {**PLAIN, "views": VIEWS, "fusion_objective": "distillation"},
    "KD, fused by label": {**PLAIN, "views": VIEWS},
    "KD + TMKD, by distillation": {**TMKD, "fusion_objective": "distillation"},
    "KD + TMKD, by label": TMKD,
}


def train(module: LightningModule, data: DigitsDataModule, epochs: int) -> Trainer:
    callbacks = (
        [PromptEmbeddings(HashingTextEncoder()), TeacherAccuracyCheck(0)] if isinstance(module, TMKDModule) else []
    )
    trainer = silent_trainer(epochs, callbacks, accelerator="cpu")
    trainer.fit(module, datamodule=data)
    return trainer


def top1(trainer: Trainer, module: LightningModule, data: DigitsDataModule) -> float:
    return 100 * trainer.test(module, datamodule=data, verbose=False)[0]["test/top1"]


def teacher(views: list[str]) -> tuple[dict[str, torch.Tensor], float]:
    seed_everything(0)
    data = DigitsDataModule(image_size=16)
    module = ClassifierModule(WideResNet(16, 2, 10), views=views, optimizer=OPTIMIZER)
    trainer = train(module, data, epochs=8)
    return module.network.state_dict(), top1(trainer, module, data)


def student(options: dict[str, Any] | None, weights: dict[str, torch.Tensor], seed: int) -> tuple[float, list[float]]:
    seed_everything(seed)
    data = DigitsDataModule(image_size=16, train_samples=100, seed=seed)
    network = WideResNet(10, 1, 10)
    if options is None:
        module: LightningModule = ClassifierModule(network, optimizer=OPTIMIZER)
    else:
        frozen = WideResNet(16, 2, 10)
        frozen.load_state_dict(weights)
        module = TMKDModule(frozen, network, distiller=KD(), optimizer=OPTIMIZER, **options)
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
    for trained_on, views in (("plain images", ["rgb"]), ("its views", VIEWS)):
        weights, accuracy = teacher(views)
        print(f"\nteacher trained on {trained_on}: {accuracy:.1f} %", flush=True)
        for name, options in CONDITIONS.items():
            runs = [student(options, weights, seed) for seed in seeds]
            scores = [score for score, _ in runs]
            shares = [round(statistics.mean(column), 2) for column in zip(*(s for _, s in runs), strict=True)]
            mean, deviation = statistics.mean(scores), statistics.stdev(scores)
            results.append({"teacher": trained_on, "condition": name, "mean": mean, "sd": deviation})
            results[-1] |= {"top1": scores, "fusion": shares}
            print(f"{name:<28}{mean:6.2f} ± {deviation:4.2f}  fusion weights {shares}", flush=True)
    report("fusion_study", results, hidden=["top1"])


if __name__ == "__main__":
    main()
