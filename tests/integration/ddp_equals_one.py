"""Trains and measures in some processes, and writes what came out. Run by test_ddp.py, which does the same in one.

With a second argument: trains by each method ("methods", for test_every_method.py) or until it is killed ("killed").
"""

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from helpers.methods import METHODS
from helpers.tiny import CLASSES, Net, make_images, sgd, tmkd_module
from tmkd_lightning import TMKDModule
from tmkd_lightning.callbacks import PromptEmbeddings
from tmkd_lightning.data import ImageDataModule
from tmkd_lightning.distillers import CRD, DIST, KD, PKT, RKD, SP, Distiller
from tmkd_lightning.text import HashingTextEncoder
from tmkd_lightning.utils.distributed import gather_batches

BATCH = 8  # of all processes together
TMKD: dict[str, Any] = {"fusion": "text", "noise_scale": 0}
ALONE: dict[str, Any] = {"views": ["rgb"], "text_weight": 0, "feature_weight": 0, "logit_weight": 0}
# Weights with which each moves the student further than the cross-entropy beside it does.
RELATIONAL: dict[str, Callable[..., Distiller]] = {
    "rkd": partial(RKD, 2.0, 4.0),
    "sp": partial(SP, 30.0),
    "pkt": partial(PKT, 300.0),
    "dist": partial(DIST, beta=0.0, gamma=20.0),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "kd": {**ALONE, "distiller": KD()},
    "tmkd, distillation": {**TMKD, "fusion_objective": "distillation"},
    "tmkd, label": {**TMKD, "fusion_objective": "label"},
    "tmkd, rkd": {**TMKD, "fusion_objective": "distillation", "distiller": RKD(2.0, 4.0, gather=True)},
    **{name: {**ALONE, "distiller": method(gather=True)} for name, method in RELATIONAL.items()},
}
LOCAL = {f"{name}, local": {**ALONE, "distiller": method()} for name, method in RELATIONAL.items()}


class Plain(nn.Module):
    """A student without BatchNorm, whose statistics are those of the batch of one process."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(8, len(CLASSES))

    def forward(self, image: Tensor) -> Tensor:
        return self.fc(self.relu(self.conv(image)).mean((2, 3)))


class Noise(ImageDataModule):
    """Images that come as they are."""

    class_names = CLASSES

    def __init__(self, train: int, val: int, batch_size: int) -> None:
        self.images = {"train": make_images(train), "val": make_images(val, seed=1)}
        super().__init__(
            batch_size=batch_size,
            num_workers=0,
            image_size=8,
            train_transform=torch.clone,
            eval_transform=torch.clone,
        )

    def samples(self, split: str) -> list[tuple[Tensor, int]]:
        return self.images[split]


class Poison(KD):
    """Becomes NaN at the second step of the second process."""

    calls = 0

    def forward(self, student, teacher, label):
        self.calls += 1
        bad = self.calls == 2 and torch.distributed.get_rank() == 1
        return {"kd": super().forward(student, teacher, label)["kd"] * (float("nan") if bad else 1)}


def build(**options: Any) -> TMKDModule:
    seed_everything(0)
    return tmkd_module(Net(16), Plain(), optimizer=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), **options)


def trainer(processes: int, **options: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"enable_checkpointing": False, "max_epochs": 2, **options},
    )


def train(processes: int, folder: Path, name: str, images: int = 24) -> dict[str, Tensor]:
    """Everything that two epochs have trained: six steps."""
    module = build(**{**SETTINGS, **LOCAL}[name])
    prompts = PromptEmbeddings(HashingTextEncoder(), cache_dir=str(folder / "prompts"))
    run = trainer(processes, callbacks=[prompts])
    run.fit(module, datamodule=Noise(images, 9, BATCH // processes))
    assert run.global_step == 6
    return {key: value.detach().clone() for key, value in module.named_parameters() if value.requires_grad}


def banks(folder: Path) -> dict[str, Any]:
    """What CRD ends two epochs with, undisturbed and resumed after the first."""
    ends: dict[str, Any] = {}
    for name, epochs, start in (("whole", 2, None), ("first", 1, None), ("resumed", 2, folder / "crd.ckpt")):
        constant = partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda epoch: 1.0)
        module = build(**ALONE, distiller=CRD(negatives=8, width=4), lr_scheduler=constant)
        run = trainer(2, max_epochs=epochs)
        run.fit(module, datamodule=Noise(24, 4, BATCH // 2), ckpt_path=start)
        if name == "first":
            run.save_checkpoint(folder / "crd.ckpt")
        sent = set(module.state_dict()) - set(module._ddp_params_and_buffers_to_ignore)
        ends[name] = {key: value.clone() for key, value in module.state_dict().items()} | {"sent": sorted(sent)}
    return ends


def measure(processes: int) -> dict[str, float]:
    """Metrics of nine images: of two processes, one has three batches and the other two."""
    module = build(**SETTINGS["kd"])
    (metrics,) = trainer(processes).validate(module, datamodule=Noise(24, 9, 2), verbose=False)
    return metrics


def poisoned(processes: int, folder: Path) -> str:
    """What a process says of a loss that is NaN in one of them."""
    saving = ModelCheckpoint(folder, filename="poisoned", every_n_train_steps=1)
    run = trainer(processes, callbacks=[saving], enable_checkpointing=True)
    try:
        run.fit(build(**{**SETTINGS["kd"], "distiller": Poison()}), datamodule=Noise(24, 9, BATCH // processes))
    except FloatingPointError as error:
        return str(error)
    return "nothing"


def gathered() -> dict[str, Any]:
    """What `gather_batches` gives each of two processes, its gradients, and what it says of batches that differ."""
    rank = torch.distributed.get_rank()
    found: dict[str, Any] = {}
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        own = torch.tensor([[1.0], [2.0]], dtype=dtype).add(10 * rank).requires_grad_()
        whole, other = gather_batches(own, torch.tensor([[5.0, 6.0]]).add(10 * rank))
        (whole * torch.tensor([[1.0], [2.0], [3.0], [4.0]], dtype=dtype)).sum().backward()
        found[str(dtype)] = whole.detach(), other, own.grad
    for shape, backend in (((2 + rank, 3), "gloo"), ((2, 3, 4 + rank), "nccl")):
        with patch.object(torch.distributed, "get_backend", lambda name=backend: name):
            try:
                gather_batches(torch.zeros(2, 3), torch.zeros(shape))
            except ValueError as error:
                found[backend] = str(error)
    return found


def each_method() -> dict[str, Any]:
    """The student that each method ends with."""
    students, methods = {}, {"alone": None} | {name: method() for name, method in METHODS.items()}
    options = {"fusion": "mean", "text_weight": 0, "feature_weight": 0, "logit_weight": 0, "optimizer": sgd}
    for name, method in methods.items():
        seed_everything(0)
        module = tmkd_module(Net(16), Net(), distiller=method, **options)
        run = trainer(2, max_epochs=1)
        run.fit(module, DataLoader(make_images(12), batch_size=3))
        assert run.global_step == 2
        students[name] = {key: value.clone() for key, value in module.student.state_dict().items()}
    return students


def all_of(place: Path) -> dict[str, Any]:
    found: dict[str, Any] = {name: train(2, place, name) for name in (*SETTINGS, *LOCAL)}
    found["uneven"] = train(2, place, "kd", images=21)  # 11 each, one of them twice: batches of 4, 4 and 3
    return {
        **found,
        "metrics": measure(2),
        "poisoned": poisoned(2, place),
        "gathered": gathered(),
        "banks": banks(place),
    }


class Tell(Callback):
    """Writes which process this is, once it trains."""

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        path = Path(sys.argv[1]) / f"rank{trainer.global_rank}"
        if trainer.global_step == 5:
            path.with_suffix(".part").write_text(str(os.getpid()))
            path.with_suffix(".part").rename(path)


if __name__ == "__main__":
    place, mode = Path(sys.argv[1]), sys.argv[2:]
    if mode == ["killed"]:
        run = trainer(2, callbacks=[Tell()], max_epochs=-1)
        run.fit(build(**SETTINGS["kd"]), datamodule=Noise(24, 9, BATCH // 2))
    result = each_method() if mode == ["methods"] else all_of(place)
    torch.save(result, place / f"rank{torch.distributed.get_rank()}.pt")
