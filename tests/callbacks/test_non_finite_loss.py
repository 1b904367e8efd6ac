"""Losses and weights that are not finite: the run stops, says where, and what was saved before stays as it was."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerStatus
from torch import nn

from helpers.tiny import tmkd_module
from tmkd_lightning import ClassifierModule, TMKDModule
from tmkd_lightning.callbacks.non_finite_loss import NonFiniteLossCheck
from tmkd_lightning.distillers import KD

FAST = {"optimizer": lambda params: torch.optim.SGD(params, lr=0.05)}
NAN, INF = float("nan"), float("inf")


class Poison(KD):
    """Is NaN at one call; or, if steep, 0 with a slope of infinity: what this makes of the weights is not finite."""

    def __init__(self, at: int, value: float = NAN, steep: bool = False) -> None:
        super().__init__()
        self.at, self.value, self.steep, self.calls = at, value, steep, 0

    def forward(self, student, teacher, label):
        self.calls += 1
        term = super().forward(student, teacher, label)["kd"]
        if self.calls == self.at:
            term = (0 * term).sqrt() if self.steep else self.value * term
        return {"kd": term}


class Remember(Callback):
    """Keeps the files of a folder as they were after the first epoch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, bytes] = {}

    def on_train_epoch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.current_epoch == 1:
            self.files = read(self.folder)


def read(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def taught(net, distiller: KD, **options: Any) -> TMKDModule:
    options = {"views": ["rgb"], "text_weight": 0, "feature_weight": 0, **FAST, **options}
    return tmkd_module(net(16), net(), distiller=distiller, **options)


def step(check: NonFiniteLossCheck, place: tuple[int, int, int], **losses: float) -> None:
    """A batch with these losses."""
    step, epoch, batch = place
    trainer: Any = SimpleNamespace(global_step=step, current_epoch=epoch, log_every_n_steps=0)
    module: Any = SimpleNamespace(logged_losses={name: torch.tensor(value) for name, value in losses.items()})
    module.device = torch.device("cpu")
    check.on_train_batch_start(trainer, module, None, batch)
    check.on_train_batch_end(trainer, module, None, None, batch)


IDLE = SimpleNamespace(state=SimpleNamespace(status=TrainerStatus.FINISHED))
RUNS = SimpleNamespace(state=SimpleNamespace(status=TrainerStatus.RUNNING), world_size=3)


def test_the_first_term_of_the_first_batch_is_named() -> None:
    check = NonFiniteLossCheck()
    for batch, values in enumerate([(1.0, 2.0), (1.0, NAN), (INF, 1.0), (1.0, 1.0)]):
        step(check, (10 + batch, 3, batch), ce=values[0], kd=values[1])
    with pytest.raises(FloatingPointError, match=r"loss term 'kd' was not finite at step 11 \(batch 1 of epoch 3\); "):
        check.check(IDLE, SimpleNamespace())


def test_of_several_processes_the_first_batch_counts(monkeypatch) -> None:
    check = NonFiniteLossCheck()
    step(check, (0, 0, 0), ce=0.0, kd=0.0)
    notes = list(torch.tensor([[-1, -1, -1, -1], [5, 1, 2, 0], [4, 1, 1, 1]]))
    monkeypatch.setattr(torch.distributed, "all_gather", lambda found, own: found.__setitem__(slice(None), notes))
    with pytest.raises(FloatingPointError, match=r"'kd' .* at step 4 \(batch 1 of epoch 1 in process 2\)"):
        check.check(RUNS, SimpleNamespace())
    notes = [notes[0]] * 3
    check.check(RUNS, SimpleNamespace())


# In a run


def test_a_batch_is_told_from_its_step(net, fit) -> None:
    """Of two accumulated batches, the second; of four batches in an epoch, the sixth in all."""
    with pytest.raises(FloatingPointError, match=r"term 'kd' was not finite at step 2 \(batch 1 of epoch 1\)"):
        fit(taught(net, Poison(6, INF)), accumulate_grad_batches=2, log_every_n_steps=1)


@pytest.mark.parametrize("every", [1, 50])
def test_the_run_stops_and_keeps_the_last_good_checkpoint(net, fit, tmp_path, every) -> None:
    saving = ModelCheckpoint(tmp_path, filename="last", every_n_train_steps=2, save_on_train_epoch_end=True)
    with pytest.raises(FloatingPointError, match=r"loss term 'kd' was not finite at step 2 \(batch 2 of epoch 0\);"):
        fit(taught(net, Poison(3)), callbacks=[saving], enable_checkpointing=True, log_every_n_steps=every)
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert content["global_step"] == 2
    assert all(value.isfinite().all() for value in content["state_dict"].values())


@pytest.mark.parametrize(
    ("distiller", "message"),
    [
        (Poison(7), r"loss term 'kd' was not finite at step 6 \(batch 2 of epoch 1\)"),
        (Poison(8), r"loss term 'kd' was not finite at step 7 \(batch 3 of epoch 1\)"),
        (Poison(8, steep=True), r"parameter '.*' is not finite, although all losses were"),
    ],
    ids=["loss", "last loss", "gradient"],
)
@pytest.mark.filterwarnings("ignore:.*exists and is not empty")
def test_no_saved_file_is_touched(net, fit, loader, tmp_path, distiller, message) -> None:
    """Neither the best, nor the last, nor one for the exception; a NaN in an epoch's last batch is not saved either."""
    keep = {"dirpath": tmp_path / "saved", "enable_version_counter": False}
    remember = Remember(tmp_path / "saved")
    best = ModelCheckpoint(filename="best", monitor="val/loss", mode="max", **keep)  # any later one would be better
    last = ModelCheckpoint(filename="last", save_on_exception=True, **keep)
    options = {"callbacks": [best, last, remember], "enable_checkpointing": True, "log_every_n_steps": 50}
    with pytest.raises(FloatingPointError, match=message):
        fit(taught(net, distiller), val=loader(), **options)
    assert remember.files.keys() == {"best.ckpt", "last.ckpt"}
    assert read(tmp_path / "saved") == remember.files
    assert torch.load(tmp_path / "saved/last.ckpt", weights_only=True)["global_step"] == 4


class Overflowing(nn.Module):
    """Its BatchNorm sees numbers whose variance is above float32: what it gives is finite, what it keeps is not."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.conv, self.bn, self.fc, self.scale = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3), scale
        self.register_buffer("mask", torch.tensor([INF, -INF]))  # meant to be so

    def forward(self, image):
        return self.fc(self.bn(self.conv(image) * self.scale).mean((2, 3)))


def test_statistics_that_are_not_finite_are_not_saved(fit, tmp_path) -> None:
    def train(name: str, scale: float) -> None:
        saving = ModelCheckpoint(tmp_path, filename=name)
        fit(ClassifierModule(Overflowing(scale)), callbacks=[saving], enable_checkpointing=True)

    train("finite", 1.0)
    with pytest.raises(FloatingPointError, match=r"buffer 'network\.bn\.running_var' is not finite, although"):
        train("infinite", 1e22)
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["finite.ckpt"]


@pytest.mark.filterwarnings("ignore:You are trying to `self.log..` but `Trainer.barebones=True")
@pytest.mark.parametrize(
    "options", [{"log_every_n_steps": 50}, {"log_every_n_steps": 0}, {"barebones": True, "logger": None}], ids=str
)
def test_epochs_that_are_short_and_not_saved_are_looked_at_too(net, fit, options) -> None:
    module = taught(net, Poison(3))
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(FloatingPointError, match=r"step 2 \(batch 2 of epoch 0\)"):
        fit(module, max_epochs=3, **options)
    module.load_state_dict(before)
    fit(module, max_epochs=1)  # what was met before is another run's


def test_a_module_without_a_teacher_is_guarded_too(net, fit) -> None:
    module = ClassifierModule(net(), optimizer=lambda params: torch.optim.SGD(params, lr=1e38))
    with pytest.raises(FloatingPointError, match=r"loss term 'ce' was not finite at step \d \(batch \d of epoch 0\)"):
        fit(module, log_every_n_steps=1)


def test_files_of_weights_alone_are_not_written_after_a_bad_loss(net, fit, tmp_path) -> None:
    """Lightning asks no callback before it writes them; without a learning rate the weights stay finite."""
    module = taught(net, Poison(2, INF), optimizer=lambda params: torch.optim.SGD(params, lr=0.0))
    saving = ModelCheckpoint(tmp_path, save_weights_only=True, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    with pytest.raises(FloatingPointError, match="step 1 "):
        fit(module, callbacks=[saving], enable_checkpointing=True, log_every_n_steps=50)
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["step=1.ckpt"]


def test_losses_that_are_logged_twice_in_a_step(net) -> None:
    module = ClassifierModule(net())
    module.log = module.log_dict = lambda *args, **kwargs: None
    module.log_losses({"ce": torch.tensor(INF)})
    module.log_losses({"ce": torch.tensor(1.0)})
    assert module.logged_losses == {"ce": INF}
