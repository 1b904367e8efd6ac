"""Trains beside a teacher that two processes split, and beside a whole one. Run by test_sharded_teacher.py."""

import copy
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelSummary, WeightAveraging
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader

from helpers.tiny import CLASSES, Net, make_images, sgd, tmkd_module
from integration.ddp_equals_one import Noise, trainer
from tmkd_lightning import Ensemble, Extractor, TMKDModule
from tmkd_lightning.callbacks import Figures, TeacherCache
from tmkd_lightning.distillers import CATKD, SRRL

ALONE: dict[str, Any] = {"views": ["rgb", "edge"], "fusion": "mean", "text_weight": 0, "feature_weight": 0}
# Each is trained twice, with and without splitting; odd sizes do not divide by two.
SETTINGS: dict[str, dict[str, Any]] = {
    "maps and head": {"distiller": [CATKD(), SRRL()]},
    "half, in pieces": {"distiller": [CATKD(), SRRL()], "teacher_dtype": "bfloat16", "teacher_chunk": 3},
    "ensemble": {"distiller": SRRL()},
}


class Blocks(nn.Module):
    """A stem, blocks in a list and in a sequence, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 5, 3, padding=1)
        self.list = nn.ModuleList([Block() for _ in range(2)])
        self.sequence = nn.Sequential(*(Block() for _ in range(2)))
        self.head = nn.Linear(5, len(CLASSES))

    def forward(self, image: Tensor) -> Tensor:
        image = self.stem(image)
        for block in self.list:
            image = block(image)
        return self.head(self.sequence(image).mean((2, 3)))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide, self.norm = nn.Conv2d(5, 63, 3, padding=1), nn.BatchNorm2d(63)
        self.narrow = nn.Conv2d(63, 5, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        return image + self.narrow(self.norm(self.wide(image)).relu())


def loader(sizes: dict[int, list[int]]) -> DataLoader[Any]:
    """Batches of as many images as `sizes` says of this process."""
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    batches, start = [], 0
    for size in sizes[rank]:
        batches.append(list(range(start, start + size)))
        start += size
    return DataLoader(make_images(start, seed=rank), batch_sampler=batches)


class Loaders(Noise):
    """Batches whose sizes differ between processes."""

    def __init__(self, train: dict[int, list[int]], val: dict[int, list[int]]) -> None:
        super().__init__(24, 9, 4)
        self.sizes = {"train": train, "val": val}

    def train_dataloader(self) -> Any:
        return loader(self.sizes["train"])

    def val_dataloader(self) -> Any:
        return loader(self.sizes["val"])


class Held(Callback):
    """Counts the elements of the teacher's parameters that this process holds, at the start and within training."""

    def __init__(self) -> None:
        self.held: list[int] = []

    def count(self, trainer: Trainer, module: Any, *_: Any) -> None:
        self.held.append(held(module))

    on_fit_start = on_train_batch_end = count  # type: ignore[assignment]


def held(module: TMKDModule) -> int:
    parts = [part.to_local() if isinstance(part, DTensor) else part for part in module.teacher.parameters()]
    return sum(part.numel() for part in parts)


def build(name: str, sharded: bool, **options: Any) -> TMKDModule:
    seed_everything(0)
    teacher: nn.Module = Blocks()
    if name == "ensemble":
        teacher = Ensemble([teacher, Blocks()])
    options = {**ALONE, **copy.deepcopy(SETTINGS[name]), "teacher_sharded": sharded, **options}
    return tmkd_module(teacher, Net(), optimizer=sgd, **options)


def train(name: str, sharded: bool, data: Any, *callbacks: Callback, **options: Any) -> dict[str, Any]:
    """What a run ends with; options are the trainer's."""
    module, counter = build(name, sharded), Held()
    total = held(module)
    run = trainer(2, callbacks=[counter, ModelSummary(), *callbacks], max_epochs=1, **options)
    run.fit(module, datamodule=data)
    return {
        "trained": {key: part.detach().clone() for key, part in module.named_parameters() if part.requires_grad},
        "logged": {key: float(value) for key, value in run.logged_metrics.items()},
        "shares": [count / total for count in counter.held],
        "saved": sorted(module.state_dict()),
        "steps": run.global_step,
    }


def resumed(folder: Path) -> dict[str, Any]:
    """The end of two epochs, without a break and after one."""
    ends: dict[str, Any] = {}
    constant = partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda epoch: 1.0)
    for name, epochs, start in (("whole", 2, None), ("first", 1, None), ("resumed", 2, folder / "run.ckpt")):
        module, run = build("maps and head", sharded=True, lr_scheduler=constant), trainer(2, max_epochs=epochs)
        run.fit(module, datamodule=Noise(24, 9, 4), ckpt_path=start)
        if name == "first":
            run.save_checkpoint(folder / "run.ckpt")
        ends[name] = {key: value.clone() for key, value in module.state_dict().items()}
    return ends


def replicated() -> Noise:
    data = Noise(24, 9, 4)
    data.augmentation_replicas = 1
    return data


def said(*callbacks: Callback, fits: int = 1, teacher: nn.Module | None = None) -> str:
    """What a run is refused with."""
    module = build("maps and head", sharded=True)
    if teacher is not None:
        module = tmkd_module(teacher, Net(), distiller=SRRL(), optimizer=sgd, teacher_sharded=True, **ALONE)
    try:
        for _ in range(fits):
            trainer(2, callbacks=list(callbacks), max_epochs=1).fit(module, datamodule=replicated())
    except ValueError as error:
        return str(error)
    return "nothing"


def all_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {
        name: [train(name, sharded, Noise(24, 9, 4)) for sharded in (False, True)] for name in SETTINGS
    }
    # of the second process one batch is skipped, others make more pieces, and it has fewer for measuring
    sizes = {"train": {0: [6, 2, 4], 1: [3, 5, 1]}, "val": {0: [2, 2, 2], 1: [2]}}
    own = {"use_distributed_sampler": False}
    found["uneven"] = [train("half, in pieces", sharded, Loaders(**sizes), **own) for sharded in (False, True)]
    found["resumed"] = resumed(folder)
    cache = TeacherCache(str(folder / "cache"), "float32")
    found["said"] = {
        "cache": said(cache),
        "figures": said(Figures()),
        "averaging": said(WeightAveraging()),
        "again": said(fits=2),
        "no blocks": said(teacher=Extractor(Net(16))),
    }
    found["cached"] = [train("maps and head", sharded, replicated(), cache) for sharded in (False, True)]
    return found


if __name__ == "__main__":
    place = Path(sys.argv[1])
    result = all_of(place)
    torch.save(result, place / f"rank{torch.distributed.get_rank()}.pt")
