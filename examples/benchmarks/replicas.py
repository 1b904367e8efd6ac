"""What augmentation that comes again after R epochs costs in accuracy, and saves in time.

    python examples/benchmarks/replicas.py --root data/cifar10 --images 2500 --epochs 30 --seeds 2

Trains one teacher on three views, then students by KD with TMKD from it, through a teacher cache with R replicas; R = 0
never repeats an augmentation and runs the teacher in every step. The root holds train/<class>/ and test/<class>/ with
small photos. Prints test top-1 of the last epoch for each R, mean and standard deviation over seeds, and seconds a run;
writes runs/replicas.json. The words are a stand-in without visual meaning.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from typing import Any

from common import TMKD, VIEWS, report, sgd, silent_trainer
from lightning.pytorch import Callback, LightningModule, seed_everything
from torchvision.transforms import v2

from tmkd_lightning import ClassifierModule, TMKDModule
from tmkd_lightning.callbacks import PromptEmbeddings, TeacherAccuracyCheck, TeacherCache
from tmkd_lightning.data import ImageFolderDataModule
from tmkd_lightning.distillers import KD
from tmkd_lightning.models import WideResNet
from tmkd_lightning.text import HashingTextEncoder


def images(options: argparse.Namespace, replicas: int, seed: int) -> ImageFolderDataModule:
    """The same images, and the same replicas, for all seeds; they differ in order, networks and noise."""
    data = ImageFolderDataModule(
        options.root,
        image_size=32,
        batch_size=64,
        num_workers=0,
        val_fraction=1 - options.images / options.of,
        augmentation_replicas=replicas,
        train_transform=v2.Compose([v2.PILToTensor(), v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip()]),
        eval_transform=v2.PILToTensor(),
    )
    data.setup("fit")  # the held-out part, which is most of them, follows the seed
    data.seed = seed  # of the order, from here on
    return data


def train(module: LightningModule, data: ImageFolderDataModule, epochs: int, callbacks: list[Callback]) -> float:
    """Test top-1 of the last epoch in per cent."""
    trainer = silent_trainer(epochs, callbacks, accelerator="cpu")
    trainer.fit(module, datamodule=data)
    return 100 * trainer.test(module, datamodule=data, verbose=False)[0]["test/top1"]


def distil(teacher: WideResNet, options: argparse.Namespace, replicas: int, seed: int, folder: str) -> dict[str, float]:
    seed_everything(seed, verbose=False)
    student = WideResNet(depth=10, widen_factor=1, num_classes=10)
    module = TMKDModule(teacher, student, distiller=KD(), optimizer=sgd, **TMKD)
    callbacks = [PromptEmbeddings(HashingTextEncoder(), cache_dir=f"{folder}/texts"), TeacherAccuracyCheck(0)]
    callbacks += [TeacherCache(f"{folder}/cache")] if replicas else []
    start = time.monotonic()
    top1 = train(module, images(options, replicas, seed), options.epochs, callbacks)
    return {"top1": top1, "seconds": time.monotonic() - start}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", required=True)
    parser.add_argument("--images", type=int, default=2500, help="to train on")
    parser.add_argument("--of", type=int, default=50_000, help="how many there are")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--teacher_epochs", type=int, default=20)
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2, 4, 8, 0])
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    seed_everything(0, verbose=False)
    teacher = WideResNet(depth=10, widen_factor=2, num_classes=10)
    trained = ClassifierModule(teacher, views=VIEWS, view_shares=[0.4, 0.3, 0.3], optimizer=sgd)
    rows: list[dict[str, Any]] = [
        {"replicas": "teacher", "top-1": train(trained, images(options, 0, 0), options.teacher_epochs, [])}
    ]
    with tempfile.TemporaryDirectory() as folder:
        for replicas in options.replicas:
            runs = [distil(teacher, options, replicas, seed, folder) for seed in range(options.seeds)]
            accuracies = [run["top1"] for run in runs]
            rows.append(
                {
                    "replicas": replicas,
                    "top-1": statistics.mean(accuracies),
                    "sd": statistics.stdev(accuracies) if len(runs) > 1 else None,
                    "first seed, s": runs[0]["seconds"],
                    "other seeds, s": statistics.median(run["seconds"] for run in runs[1:] or runs),
                }
            )
            print(rows[-1], flush=True)
    report("replicas", rows)


if __name__ == "__main__":
    main()
