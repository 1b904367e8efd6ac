"""What an epoch costs with a teacher cache: while it fills, once it is complete, and without one.

    python examples/benchmarks/cache.py --pair resnet --data tmkd_lightning.data.CUB200DataModule --root data/cub200
    python examples/benchmarks/cache.py --pair wrn --data tmkd_lightning.data.ImageFolderDataModule --root data/cifar10

In each round, in turn and on the same images: the student alone, TMKD with the teacher running, and TMKD with a cache,
whose first epoch fills it and whose second reads it; with --images, then a run on that cache which stores the images
in its first epoch, and decodes none in its second. Every epoch is timed by itself; of each run the first, in which
the loaders start, is compared with first ones only. Prints how far the mean training losses of the epochs with the
cache, in float16, are from those without, then seconds an epoch and ratios, medians over the rounds; writes
runs/cache.json.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from common import CLOCKS, METHODS, PAIRS, SEEN, TMKD, make_method, report, sgd, silent_trainer
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor

from tmkd_lightning import ClassifierModule, TMKDModule
from tmkd_lightning.callbacks import PromptEmbeddings, TeacherAccuracyCheck, TeacherCache
from tmkd_lightning.text import HashingTextEncoder


class Epochs(Callback):
    """Seconds that each epoch took, from its first batch asked for to its last step done, and its mean loss."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.seconds: list[float] = []
        self.losses: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.steps: list[Tensor] = []
        self.start = self.clock()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        self.steps.append(outputs["loss"].detach())

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds.append(self.clock() - self.start)
        self.losses.append(torch.stack(self.steps).mean().item())


def train(module: LightningModule, options: argparse.Namespace, epochs: int, callbacks: list[Callback]) -> Epochs:
    timed = Epochs(CLOCKS[options.clock])
    silent_trainer(epochs, [timed, *callbacks]).fit(module, datamodule=datamodule(options))
    return timed


def datamodule(options: argparse.Namespace) -> Any:
    package, _, name = options.data.rpartition(".")
    return getattr(importlib.import_module(package), name)(
        options.root,
        image_size=PAIRS[options.pair][2],
        batch_size=options.batch_size,
        num_workers=options.workers,
        val_fraction=options.val_fraction,
        augmentation_replicas=1,
    )


def one_round(options: argparse.Namespace, folder: str) -> dict[str, float]:
    """Seconds of first and of later epochs, by what they do."""
    make_teacher, make_student, _ = PAIRS[options.pair]
    classes = datamodule(options).num_classes
    prompts = PromptEmbeddings(HashingTextEncoder(), cache_dir=f"{folder}/texts")

    def distil(epochs: int, *callbacks: Callback) -> Epochs:
        seed_everything(0, verbose=False)  # the same networks, and the same noise
        networks = make_teacher(num_classes=classes), make_student(num_classes=classes)
        method = make_method(options.method)
        seen = SEEN if options.student_views else {}
        module = TMKDModule(*networks, distiller=method, optimizer=sgd, **TMKD | seen)
        return train(module, options, epochs, [prompts, TeacherAccuracyCheck(0), *callbacks])

    seed_everything(0, verbose=False)
    plain = train(ClassifierModule(make_student(num_classes=classes), optimizer=sgd), options, 2, [])
    live = distil(2)
    with tempfile.TemporaryDirectory() as cache:
        cached = distil(2, TeacherCache(cache))
        stored = distil(2, TeacherCache(cache, images=True)) if options.images else None
    apart = max(abs(one - other) / other for one, other in zip(cached.losses, live.losses, strict=True))
    print(f"mean losses of the epochs: {live.losses} without, {cached.losses} with a cache, {apart:.1e} apart")
    of_images = {} if stored is None else {"stores images": stored.seconds[0], "reads, images too": stored.seconds[1]}
    return {
        "plain, first": plain.seconds[0],
        "plain": plain.seconds[1],
        "live, first": live.seconds[0],
        "live": live.seconds[1],
        "fills": cached.seconds[0],
        "reads": cached.seconds[1],
        **of_images,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pair", choices=PAIRS, default="wrn")
    parser.add_argument("--method", choices=METHODS, default="kd")
    parser.add_argument("--data", required=True, help="datamodule by its import path")
    parser.add_argument("--root", required=True)
    parser.add_argument("--val_fraction", type=float, default=0.1, help="more, to train on fewer images")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--student_views", action="store_true", help="the student sees one of the views of each image")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: of a shared machine, with --workers 0")
    parser.add_argument("--images", action="store_true", help="also store the images")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.clock == "cpu" and (options.workers or torch.cuda.is_available()):
        parser.error("the cpu clock sees neither workers nor a GPU: take --workers 0, on a machine without one")
    with tempfile.TemporaryDirectory() as folder:
        rounds = [one_round(options, folder) for _ in range(options.rounds)]
    pairs = {"plain": "plain", "live": "plain", "fills": "live, first", "reads": "plain"}
    if options.images:
        pairs |= {"stores images": "plain, first", "reads, images too": "plain"}
    rows = [
        {
            "epoch": name,
            "seconds": statistics.median(one[name] for one in rounds),
            "against": other,
            "ratio": statistics.median(one[name] / one[other] for one in rounds),
            "ratios": [round(one[name] / one[other], 3) for one in rounds],
        }
        for name, other in pairs.items()
    ]
    report("cache", rows)


if __name__ == "__main__":
    main()
