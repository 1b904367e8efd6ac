"""What a step costs here, against the least that it must, or against plain KD written by hand in bare PyTorch.

    python examples/benchmarks/step.py --pair wrn --batch_size 32 --methods kd --against by_hand
    python examples/benchmarks/step.py --pair resnet --batch_size 8 --methods none kd rkd sp cat_kd tekap --tmkd

The least (`--against floor`) is what the networks cost: forward, backward and optimizer of the student alone, and one
bare forward of the teacher for each view. Both train copies of one pair on the same batches, one step in turn, ours
through the Trainer with a CSV logger; after each pair of steps the views are built once more and timed by themselves.
Prints milliseconds a step and the ratios, medians over the steps of one run, or over the rounds of these, and writes
runs/step.json. `--methods all` is every base method of the library; examples/benchmarks/methods.py makes a table of it.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from common import CLOCKS, METHODS, PAIRS, SEEN, TMKD, make_method, report, sgd, silent_trainer
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from tmkd_lightning import TMKDModule
from tmkd_lightning.callbacks import PromptEmbeddings, TeacherAccuracyCheck
from tmkd_lightning.text import HashingTextEncoder
from tmkd_lightning.utils.images import IMAGENET_MEAN, IMAGENET_STD

CLASSES = 100
PLAIN: dict[str, Any] = {"views": ["rgb"], "feature_weight": 0, "logit_weight": 0, "text_weight": 0}


class ByHand:
    """The step as one writes it for oneself."""

    def __init__(self, teacher: nn.Module, student: nn.Module) -> None:
        self.teacher, self.student = teacher.eval().requires_grad_(False), student.train()
        self.optimizer = sgd(self.student.parameters())
        device = next(student.parameters()).device
        self.mean, self.std = (
            torch.tensor(value, device=device).view(3, 1, 1) for value in (IMAGENET_MEAN, IMAGENET_STD)
        )

    def step(self, image: Tensor, label: Tensor) -> None:
        image = (image.float() / 255 - self.mean) / self.std
        with torch.no_grad():
            target = F.log_softmax(self.teacher(image) / 4, dim=1)
        logits = self.student(image)
        kd = F.kl_div(F.log_softmax(logits / 4, dim=1), target, reduction="batchmean", log_target=True) * 16
        loss = F.cross_entropy(logits, label) + kd
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


class Floor(ByHand):
    """What nothing can do without: the student's step, and a forward of the teacher for each view."""

    def __init__(self, teacher: nn.Module, student: nn.Module, views: int) -> None:
        super().__init__(*(network.to(memory_format=torch.channels_last) for network in (teacher, student)))
        self.views = views

    def step(self, image: Tensor, label: Tensor) -> None:
        image = (image.float() / 255 - self.mean) / self.std
        with torch.no_grad():
            for _ in range(self.views):
                self.teacher(image)
        loss = F.cross_entropy(self.student(image), label)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


class InTurn(Callback):
    """After each step of the Trainer, does and times the other; the time in between is ours."""

    def __init__(self, clock: Callable[[], float], other: Callable[..., ByHand], *networks: nn.Module) -> None:
        self.clock, self.other = clock, other
        self.networks = networks
        self.ours: list[float] = []
        self.theirs: list[float] = []
        self.views: list[float] = []

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.bare = self.other(*(network.to(module.device) for network in self.networks))
        self.mark = self.clock()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        start = self.clock()
        self.ours.append(start - self.mark)
        self.bare.step(*batch[:2])
        middle = self.clock()
        module.views(batch[0])
        self.mark = self.clock()
        self.theirs.append(middle - start)
        self.views.append(self.mark - middle)


class Repeated(LightningDataModule):
    """One batch (images, labels, places among all training images), again and again."""

    training_images = 50_000

    def __init__(self, batch: tuple[Any, ...], times: int) -> None:
        super().__init__()
        self.batch, self.times = batch, times

    def train_dataloader(self) -> Any:
        return DataLoader([self.batch] * self.times, batch_size=None, collate_fn=lambda batch: batch)


def measure(
    pair: str,
    method: str,
    tmkd: bool,
    student_views: bool,
    compile: bool,
    against: str,
    clock: str,
    batch_size: int,
    steps: int,
    warm_up: int,
) -> dict[str, Any]:
    make_teacher, make_student, size = PAIRS[pair]
    networks = make_teacher(num_classes=CLASSES), make_student(num_classes=CLASSES)
    bare = copy.deepcopy(networks)  # before ours are given hooks
    distiller = make_method(method)
    options = (TMKD if tmkd else PLAIN) | (SEEN if student_views else {})
    module = TMKDModule(*networks, distiller=distiller, optimizer=sgd, compile=compile, **options)
    places = torch.randint(Repeated.training_images, (batch_size,)).numpy()
    images = torch.randint(256, (batch_size, 3, size, size), dtype=torch.uint8)
    batches = Repeated((images, torch.randint(CLASSES, (batch_size,)), places), steps + warm_up)
    other = ByHand if against == "by_hand" else partial(Floor, views=len(module.views))
    in_turn = InTurn(CLOCKS[clock], other, *bare)
    names = [f"class {index}" for index in range(CLASSES)]
    with tempfile.TemporaryDirectory() as folder:
        prompts = PromptEmbeddings(HashingTextEncoder(), class_names=names, cache_dir=folder)
        trainer = silent_trainer(1, [in_turn, TeacherAccuracyCheck(batches=0), prompts], logger=CSVLogger(folder))
        trainer.fit(module, datamodule=batches)
    ours, theirs, views = (times[warm_up:] for times in (in_turn.ours, in_turn.theirs, in_turn.views))
    return {
        "pair": pair,
        "method": method
        + (" + TMKD" if tmkd else "")
        + (", views seen" if student_views else "")
        + (", compiled" if compile else ""),
        "ours ms": 1e3 * statistics.median(ours),
        f"{against} ms": 1e3 * statistics.median(theirs),
        "ratio": statistics.median(one / other for one, other in zip(ours, theirs, strict=True)),
        "views / step": statistics.median(one / other for one, other in zip(views, ours, strict=True)),
    }


def median_row(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians of one method's numbers over the rounds."""
    return {
        key: statistics.median(row[key] for row in rows) if isinstance(value, float) else value
        for key, value in rows[0].items()
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pair", choices=PAIRS, default="wrn")
    parser.add_argument("--methods", choices=[*METHODS, "all"], nargs="+", default=["kd"])
    parser.add_argument("--rounds", type=int, default=1, help="methods take turns; medians over the rounds are shown")
    parser.add_argument("--tmkd", action="store_true", help="three views, fusion, and TMKD's own terms on top")
    parser.add_argument("--student_views", action="store_true", help="the student sees one of the views of each image")
    parser.add_argument("--compile", action="store_true", help="ours only; the other stays as it is")
    parser.add_argument("--against", choices=["floor", "by_hand"], default="floor")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: this process's time, on a shared machine")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warm_up", type=int, default=3)
    options = vars(parser.parse_args())
    methods = options.pop("methods")
    methods = [name for name in METHODS if name != "none"] if methods == ["all"] else methods
    if options["against"] == "by_hand" and (options["tmkd"] or methods != ["kd"]):
        parser.error("written by hand is plain KD only")
    if options["clock"] == "cpu" and torch.cuda.is_available():
        parser.error("the cpu clock sees nothing of a GPU")
    rounds = options.pop("rounds")
    runs = [[measure(method=method, **options) for method in methods] for _ in range(rounds)]
    report("step", [median_row(rows) for rows in zip(*runs, strict=True)])


if __name__ == "__main__":
    main()
