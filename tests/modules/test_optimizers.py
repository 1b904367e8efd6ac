"""Schedules: how often they are stepped, groups that come later, and a learning rate that is searched for."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import BaseFinetuning, LearningRateFinder, ModelCheckpoint
from lightning.pytorch.cli import ReduceLROnPlateau as NamedPlateau
from lightning.pytorch.tuner import Tuner
from torch import nn
from torch.optim import lr_scheduler as schedules
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau, StepLR

from tmkd_lightning import ClassifierModule
from tmkd_lightning.data import DigitsDataModule
from tmkd_lightning.modules.optimizers import learning_rate_factor

STEPS = 4  # of an epoch: 24 images in batches of 6


class Rates(Callback):
    """Learning rates of each step, by parameter group."""

    def __init__(self) -> None:
        self.rates: list[list[float]] = []

    def on_train_batch_start(self, trainer, module, batch, index) -> None:
        self.rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])


class Later(BaseFinetuning):
    """Trains the head at first, and the rest from an epoch on."""

    def __init__(self, epoch: int = 1, lr: float | None = 0.01) -> None:
        super().__init__()
        self.epoch, self.lr = epoch, lr

    def freeze_before_training(self, pl_module) -> None:
        self.freeze([pl_module.network.conv, pl_module.network.bn], train_bn=False)

    def finetune_function(self, pl_module, epoch, optimizer) -> None:
        if epoch == self.epoch:
            self.unfreeze_and_add_param_group([pl_module.network.conv, pl_module.network.bn], optimizer, lr=self.lr)


def sgd(params) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.1, momentum=0.9)


def rates_of(fit, network: nn.Module, scheduler, *callbacks: Callback, **options) -> list[list[float]]:
    seen = Rates()
    module = ClassifierModule(network, optimizer=sgd, lr_scheduler=scheduler)
    fit(module, callbacks=[*callbacks, seen], **options)
    return seen.rates


@pytest.mark.parametrize(("lr", "came_with"), [(0.01, 0.01), (None, 0.1 * 0.1 / 10)], ids=["a rate", "a tenth"])
def test_a_group_that_comes_later_follows_the_default_schedule_from_its_own_rate(net, fit, lr, came_with) -> None:
    """Six epochs of four steps: a tenth from step 15 on, a hundredth from 18 on; the group comes at step 16."""
    rates = rates_of(fit, net(), None, Later(epoch=4, lr=lr), max_epochs=6)
    factors = [learning_rate_factor(step, 24) for step in range(24)]
    assert [groups[0] for groups in rates] == pytest.approx([0.1 * factor for factor in factors])
    assert [len(groups) for groups in rates] == [1] * 16 + [2] * 8
    added = [groups[1] for groups in rates[16:]]
    assert added == pytest.approx([came_with, came_with, *[came_with * factors[step] / 0.1 for step in range(18, 24)]])


def two_halves(optimizer) -> schedules.SequentialLR:
    parts = [schedules.ConstantLR(optimizer, 1.0), schedules.CosineAnnealingLR(optimizer, 2)]
    return schedules.SequentialLR(optimizer, parts, milestones=[2])


@pytest.mark.parametrize(
    "make",
    [
        partial(StepLR, step_size=1, gamma=0.5),
        partial(schedules.LambdaLR, lr_lambda=lambda epoch: 0.5**epoch),
        partial(schedules.MultiplicativeLR, lr_lambda=lambda epoch: 0.5),
        partial(schedules.CosineAnnealingLR, T_max=6),
        partial(schedules.CyclicLR, base_lr=0.02, max_lr=0.2, step_size_up=3),
        partial(OneCycleLR, max_lr=0.5, total_steps=3 * STEPS),
        partial(schedules.PolynomialLR, total_iters=3),
        partial(schedules.CosineAnnealingWarmRestarts, T_0=3),
        partial(ReduceLROnPlateau, patience=0, threshold=10.0, factor=0.5),
        two_halves,
    ],
    ids=lambda make: getattr(make, "func", make).__name__,
)
def test_every_schedule_goes_on_with_a_group_that_comes_later(net, fit, loader, make) -> None:
    """In proportion to the first group's rate, whatever the schedule."""
    rates = rates_of(fit, net(), make, Later(epoch=1, lr=0.03), max_epochs=3, val=loader())
    first, added = rates[STEPS]
    assert added == 0.03
    assert [len(groups) for groups in rates] == [1] * STEPS + [2] * 2 * STEPS
    ratios = [groups[1] / groups[0] for groups in rates[STEPS:]]
    assert ratios == pytest.approx([0.03 / first] * 2 * STEPS)
    assert rates[-1][0] != first or make is two_halves


def test_a_run_with_a_group_that_came_later_is_resumed_exactly(net, fit, tmp_path) -> None:
    def run(epochs: int, **options) -> tuple[dict[str, torch.Tensor], list[list[float]]]:
        torch.manual_seed(0)
        module, seen = ClassifierModule(net(), optimizer=sgd), Rates()
        saving = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, enable_version_counter=False)
        fit(module, callbacks=[Later(epoch=2), saving, seen], max_epochs=5, enable_checkpointing=True, **options)
        return {k: v.clone() for k, v in module.state_dict().items()}, seen.rates

    whole, rates = run(5)
    ended, rest = run(5, ckpt_path=tmp_path / "epoch=2.ckpt")
    assert rest == rates[3 * STEPS :]
    assert [name for name in whole if not whole[name].equal(ended[name])] == []


def test_the_heads_factor_counts_where_the_whole_network_is_frozen(net) -> None:
    module = ClassifierModule(net(), optimizer=sgd, lr_scheduler=partial(StepLR, step_size=1))
    module.beside, module.head_lr_factor = nn.Linear(2, 2), 10.0
    module.trainer = Trainer(logger=False, accelerator="cpu", enable_checkpointing=False, enable_progress_bar=False)
    rates = [group["lr"] for group in module.configure_optimizers()["optimizer"].param_groups]
    assert rates == [0.1, 1.0]
    module.network.requires_grad_(False)
    assert [group["lr"] for group in module.configure_optimizers()["optimizer"].param_groups] == [1.0]


@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "in Lightning's dict"])
def test_one_cycle_is_stepped_after_every_step(net, fit, wrapped) -> None:
    def make(optimizer):
        scheduler = OneCycleLR(optimizer, max_lr=0.5, total_steps=2 * STEPS, pct_start=0.5)
        return {"scheduler": scheduler} if wrapped else scheduler

    rates = [groups[0] for groups in rates_of(fit, net(), make)]
    assert rates[0] == pytest.approx(0.5 / 25)
    assert max(rates) == rates[3] == pytest.approx(0.5)  # the peak is half of the eight steps away
    assert rates[-1] == pytest.approx(0.5 / 25 / 1e4)


@pytest.mark.parametrize(
    ("total", "options", "told"),
    [
        (7, {}, "total_steps=7, but this run steps it 8 times, once every step: give total_steps=8"),
        (2, {}, "total_steps=2, but this run steps it 8 times, once every step"),
        (1, {"interval": "epoch"}, "total_steps=1, but this run steps it 2 times, once every epoch"),
        (2, {"interval": "step", "frequency": 2}, "total_steps=2, but this run steps it 4 times, once every 2 steps"),
    ],
)
def test_a_cycle_that_ends_before_the_run_and_a_dict_without_one_are_refused(net, fit, total, options, told) -> None:
    def make(optimizer):
        return {"scheduler": OneCycleLR(optimizer, max_lr=0.5, total_steps=total), **options}

    with pytest.raises(ValueError, match=f"OneCycleLR was made with {told}"):
        rates_of(fit, net(), make)
    with pytest.raises(ValueError, match=r"a dict without the key 'scheduler': it has \['schedule'\]"):
        rates_of(fit, net(), lambda optimizer: {"schedule": StepLR(optimizer, 1)})


def test_a_cycle_says_that_it_is_longer_than_the_run_and_overrides_the_heads_factor(net, fit) -> None:
    """As in a run that is shortened to try a config."""
    module = ClassifierModule(net(), lr_scheduler=partial(OneCycleLR, max_lr=0.5, total_steps=9))
    module.head_lr_factor = 10.0
    length = pytest.warns(UserWarning, match="steps it 8 times, once every step, and so ends in the middle of its cyc")
    with (
        length,
        pytest.warns(UserWarning, match="OneCycleLR sets the learning rates itself, from its max_lr: lr and h"),
    ):
        fit(module)


@pytest.mark.filterwarnings("ignore:A `OneCycleLR` scheduler is using 'interval'")
@pytest.mark.parametrize(
    ("make", "options", "expected"),
    [
        (partial(StepLR, step_size=1, gamma=0.5), {}, [0.1] * STEPS + [0.05] * STEPS),  # once an epoch
        (
            partial(StepLR, step_size=1, gamma=0.5),
            {"interval": "step", "frequency": 2},
            [0.1 * 0.5 ** (step // 2) for step in range(2 * STEPS)],
        ),
        (
            partial(OneCycleLR, max_lr=0.5, total_steps=4, pct_start=0.5),
            {"interval": "epoch"},
            [0.5 / 25] * STEPS + [0.5] * STEPS,
        ),
    ],
)
def test_a_dict_says_how_often_a_schedule_is_stepped(net, fit, make, options, expected) -> None:
    rates = rates_of(fit, net(), lambda optimizer: {"scheduler": make(optimizer), **options}, max_epochs=4)
    assert [groups[0] for groups in rates[: 2 * STEPS]] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("make", "monitor"),
    [
        (ReduceLROnPlateau, "val/loss"),
        (partial(ReduceLROnPlateau, mode="max"), "val/top1"),
        (partial(NamedPlateau, monitor="val/recall"), "val/recall"),
        (lambda optimizer: {"scheduler": ReduceLROnPlateau(optimizer), "monitor": "train/ce"}, "train/ce"),
        (lambda optimizer: {"scheduler": ReduceLROnPlateau(optimizer, mode="max")}, "val/top1"),
    ],
    ids=["min", "max", "named", "dict", "dict without a name"],
)
def test_what_a_plateau_looks_at_fits_its_mode(net, fit, loader, make, monitor) -> None:
    trainer = fit(ClassifierModule(net(), lr_scheduler=make), val=loader(), max_epochs=1)
    (config,) = trainer.lr_scheduler_configs
    assert config.monitor == monitor
    assert config.scheduler.best == pytest.approx(trainer.callback_metrics[monitor].item())


def test_a_rate_of_ones_own_scales_all_groups(net, fit) -> None:
    def two(params):
        (group,) = params
        weights = group["params"]
        return torch.optim.SGD([{"params": weights[:2]}, {"params": weights[2:], "lr": 0.4}], lr=0.1)

    module, seen = ClassifierModule(net(), optimizer=two, lr_scheduler=partial(StepLR, step_size=9)), Rates()
    module.lr = 0.03
    fit(module, callbacks=[seen], max_epochs=1)
    assert seen.rates[0] == pytest.approx([0.03, 0.12])


def small(**options) -> Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(accelerator="cpu", enable_model_summary=False, **quiet, **options)


@pytest.fixture
def digits() -> DigitsDataModule:
    return DigitsDataModule(train_samples=50, batch_size=16, image_size=16, num_workers=0)


@pytest.fixture
def found(net, tmp_path, monkeypatch):
    """Trains a seeded network after a search, and gives the rate and what was learnt."""
    monkeypatch.chdir(tmp_path)

    def run(data, search: str | None, lr: float | None = None):
        torch.manual_seed(0)
        module = ClassifierModule(net(4, 10), optimizer=sgd)
        module.lr = lr
        callbacks = [LearningRateFinder(num_training_steps=24)] if search == "callback" else []
        trainer = small(max_epochs=8, limit_val_batches=0, callbacks=callbacks)
        if search == "tuner":
            Tuner(trainer).lr_find(module, datamodule=data, num_training=24)
        trainer.fit(module, datamodule=data)
        return module.lr, trainer.optimizers[0].param_groups[0]["initial_lr"], module.state_dict()

    return run


@pytest.mark.parametrize("search", ["tuner", "callback"])
def test_after_a_search_the_run_is_one_with_the_rate_that_was_found(found, digits, search) -> None:
    lr, used, learnt = found(digits, search)
    assert used == lr != 0.1
    _, _, expected = found(digits, None, lr)
    assert [name for name in expected if not expected[name].equal(learnt[name])] == []


def test_a_search_may_leave_what_is_finite(net, digits, tmp_path, monkeypatch) -> None:
    """It looks for the rate at which training falls apart; the run after it is watched again."""
    monkeypatch.chdir(tmp_path)
    module, trainer = ClassifierModule(net(4, 10), optimizer=sgd), small(max_epochs=8, limit_val_batches=0)
    options = {"num_training": 24, "max_lr": 1e38, "early_stop_threshold": None, "update_attr": False}
    finder = Tuner(trainer).lr_find(module, datamodule=digits, **options)
    assert not torch.tensor(finder.results["loss"]).isfinite().all()
    trainer.fit(module, datamodule=digits)
    assert module.lr is None
    assert all(value.isfinite().all() for value in module.state_dict().values())


def test_the_rate_that_was_found_is_the_runs_and_no_other_ones(net, fit, tmp_path) -> None:
    """A resumed run has it from its optimizer; a network that is trained anew has that of the optimizer passed now."""

    def rate_of(module: ClassifierModule, **options) -> float:
        return fit(module, **options).optimizers[0].param_groups[0]["initial_lr"]

    module = ClassifierModule(net())
    module.lr = 0.03
    assert rate_of(module, max_epochs=1) == pytest.approx(0.03)
    module.trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert rate_of(ClassifierModule(net()), max_epochs=2, ckpt_path=tmp_path / "a.ckpt") == pytest.approx(0.03)
    options = {"network": net(), "optimizer": sgd, "weights_only": True}
    again = ClassifierModule.load_from_checkpoint(tmp_path / "a.ckpt", **options)
    assert rate_of(again, max_epochs=1) == pytest.approx(0.1)


def test_the_size_of_batches_is_searched_for(net, digits, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    digits.batch_size = 2
    tuner = Tuner(small(max_epochs=1, limit_val_batches=0))
    size = tuner.scale_batch_size(ClassifierModule(net(4, 10)), datamodule=digits, max_trials=2)
    assert size == digits.batch_size == 4
