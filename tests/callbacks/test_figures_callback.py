"""The callback draws what it should, where it should, and training does not notice."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import wandb
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from PIL import Image
from torch import nn

from helpers.subprocess_run import run_script
from helpers.tiny import tmkd_module
from helpers.wandb_file import read_run
from tmkd_lightning import ClassifierModule
from tmkd_lightning.callbacks import Figures, RunRecord
from tmkd_lightning.figures import NothingToPlotError, read_history

SGD = {"optimizer": lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9)}


class Pooled(nn.Sequential):
    """A network without a map: its pooling stands before its last convolution."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 3))


class Dropping(nn.Sequential):
    """Draws from the generator at every step of training."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(nn.Dropout(0.2), network)


class Draws(Callback):
    """Keeps what all three generators gave after each epoch."""

    def __init__(self) -> None:
        self.numbers: list[tuple[float, float, float]] = []

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        self.numbers.append((torch.rand(()).item(), random.random(), np.random.rand()))


@pytest.fixture
def train(fit, net, prompts, loader):
    def run(*callbacks: Callback, seed: int = 3, **options):
        seed_everything(seed, verbose=False)
        module = tmkd_module(Dropping(net(16)), Dropping(net()), **SGD)
        options = {"callbacks": [prompts(), *callbacks], "val": loader(count=9, seed=1), **options}
        return module, fit(module, **options)

    return run


@pytest.fixture
def drawn(monkeypatch) -> list[dict[Path, Any]]:
    """The figures that would have been saved, by file, each time."""
    files = []
    monkeypatch.setattr("tmkd_lightning.callbacks.figures.save_figures", files.append)
    return files


def test_weights_are_bit_identical_with_and_without(train) -> None:
    states, draws = [], []
    for callbacks in ([], [Figures(every_n_epochs=1, formats=["png"])]):
        draws.append(Draws())
        module, _ = train(*callbacks, draws[-1])
        states.append((module.state_dict(), module.teacher.extractor.state_dict()))
        assert not any(module.keep_map for module in module.extractors())
    for one, other in zip(*states, strict=True):
        assert one.keys() == other.keys()
        assert all(value.equal(other[key]) for key, value in one.items())
    assert draws[0].numbers == draws[1].numbers


def test_every_epoch_that_is_asked_for_and_the_last(train, tmp_path) -> None:
    train(Figures(), fast_dev_run=True)  # which writes nothing
    assert not (tmp_path / "figures").exists()
    train(Figures(["views", "curves"], every_n_epochs=2), max_epochs=3, logger=CSVLogger(tmp_path, "kd"))
    folder = tmp_path / "kd/version_0/figures"
    assert sorted(os.listdir(folder)) == ["epoch_2", "epoch_3"]
    for epoch in folder.iterdir():
        assert sorted(os.listdir(epoch)) == ["curves.pdf", "curves.png", "views.pdf", "views.png"]


def test_each_epoch_is_drawn_once_and_captions_say_run_epoch_and_seed(train, tmp_path, drawn) -> None:
    figures = Figures(["logits"], every_n_epochs=1, formats=["png"])
    train(figures, max_epochs=2, logger=CSVLogger(tmp_path, "kd", version="a"), seed=11)
    assert [[*files] for files in drawn] == [[tmp_path / f"kd/a/figures/epoch_{epoch}/logits.png"] for epoch in (1, 2)]
    (caption,) = [figure.get_supxlabel().replace("\n", " ") for figure in drawn[0].values()]
    assert caption.endswith("From run a, epoch 1 (step 4), seed 11; validation images.")


def test_curves_are_what_was_logged_and_a_resumed_run_goes_on_with_them(train, tmp_path) -> None:
    figures, again, seldom = (Figures(["curves"], formats=[]) for _ in range(3))
    _, trainer = train(figures, max_epochs=3, logger=CSVLogger(tmp_path, "kd"), log_every_n_steps=4)
    logged = read_history(tmp_path / "kd/version_0/metrics.csv")
    assert figures._history.accuracy == pytest.approx(logged.accuracy)
    assert figures._history.weights.keys() == {"rgb", "edge", "high_frequency"}
    for view, values in figures._history.weights.items():
        assert values == pytest.approx(logged.weights[view])
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    train(again, max_epochs=4, ckpt_path=str(tmp_path / "last.ckpt"))
    assert list(again._history.accuracy) == [0, 1, 2, 3]
    assert {epoch: again._history.accuracy[epoch] for epoch in (0, 1, 2)} == figures._history.accuracy
    train(seldom, max_epochs=4, check_val_every_n_epoch=2)
    assert list(seldom._history.accuracy) == [1, 3]  # no epoch is noted twice


def test_wandb_gets_the_images(train, tmp_path) -> None:
    logger = WandbLogger(save_dir=tmp_path, offline=True)
    train(Figures(["views"], formats=["png"], folder=str(tmp_path / "figures")), max_epochs=1, logger=logger)
    wandb.finish()
    (path,) = tmp_path.rglob("run-*.wandb")
    _, history = read_run(path)
    (row,) = [row for row in history if "figures/views.count" in row]
    assert (row["figures/views.count"], row["trainer/global_step"]) == (1, 4)
    (image,) = tmp_path.rglob("media/images/figures/views*.png")
    drawn = Image.open(tmp_path / "figures/epoch_1/views.png")
    assert np.array_equal(np.asarray(Image.open(image).convert("RGB")), np.asarray(drawn.convert("RGB")))


def test_tensorboard_gets_the_images(train, tmp_path, monkeypatch) -> None:
    images = []
    monkeypatch.setattr(
        "torch.utils.tensorboard.SummaryWriter.add_image",
        lambda _, tag, pixels, step, dataformats: images.append(
            (tag, pixels.shape[2], pixels.dtype, step, dataformats)
        ),
    )
    train(Figures(["curves"], formats=[]), max_epochs=1, logger=TensorBoardLogger(tmp_path))
    assert images == [("figures/curves", 3, "uint8", 4, "HWC")]


def test_what_cannot_be_drawn_fails_before_training(fit, loader, tmp_path) -> None:
    module = ClassifierModule(Pooled())
    before = [parameter.clone() for parameter in module.parameters()]
    for which, val, message in (
        ("cam", loader(), "network has no class activation maps"),
        ("views", loader(), "one view, 'rgb'"),
        ("cam", None, "no images"),
    ):
        with pytest.raises(NothingToPlotError, match=message):
            fit(module, val=val, callbacks=[Figures([which])])
    (tmp_path / "file").write_text("in the way")
    callbacks = [Figures(folder=str(tmp_path / "file")), RunRecord()]
    with pytest.raises(OSError, match=r"/file/figure\.png cannot be written .*file is a file"):
        fit(module, val=loader(), logger=CSVLogger(tmp_path, "kd"), callbacks=callbacks)
    assert [path for path in (tmp_path / "kd").rglob("*") if path.is_file()] == []  # nor was anything logged
    assert all(one.equal(other) for one, other in zip(before, module.parameters(), strict=True))


def test_what_the_run_has_no_data_for_is_skipped_with_a_warning(fit, loader, tmp_path) -> None:
    views = pytest.warns(UserWarning, match="no figure of views: the run has one view")
    with views, pytest.warns(UserWarning, match="no figure of cam: network has no class activation maps"):
        fit(ClassifierModule(Pooled()), val=loader(), callbacks=[Figures(formats=["png"])], max_epochs=1)
    assert sorted(os.listdir(tmp_path / "figures/epoch_1")) == ["curves.png", "logits.png", "tsne.png"]
    with pytest.warns(UserWarning, match="no figure of tsne: there are no images"):
        trainer = fit(ClassifierModule(Pooled()), callbacks=[Figures(["tsne"], folder=str(tmp_path))])
    assert trainer.state.finished


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"which": ["views", "roc"]}, "unknown figure 'roc'"),
        ({"formats": ["gif"]}, "unknown format 'gif'"),
        ({"every_n_epochs": 0}, "every_n_epochs must be at least 1, got 0"),
        ({"examples": 0}, "examples must be at least 1, got 0"),
        ({"batches": 0}, "batches must be at least 1, got 0"),
    ],
)
def test_bad_arguments(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        Figures(**options)


@pytest.mark.slow
def test_two_processes_and_one_that_draws(tmp_path) -> None:
    """The other must not wait for a collective that never comes."""
    script = tmp_path / "ddp_figures.py"
    script.write_text(
        "import torch\n"
        "from lightning.pytorch import Trainer, seed_everything\n"
        "from torch.utils.data import DataLoader\n"
        "from helpers.tiny import Net, make_images\n"
        "from tmkd_lightning import ClassifierModule\n"
        "from tmkd_lightning.callbacks import Figures\n"
        "if __name__ == '__main__':\n"
        "    seed_everything(0)\n"
        "    loaders = [DataLoader(make_images(24, seed=seed), batch_size=4) for seed in (0, 1)]\n"
        "    trainer = Trainer(accelerator='cpu', devices=2, strategy='ddp_fork', max_epochs=1, logger=False,\n"
        "        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,\n"
        f"        default_root_dir={str(tmp_path)!r}, callbacks=[Figures(['logits'], 1, ['png'])])\n"
        "    trainer.fit(ClassifierModule(Net()), *loaders)\n"
    )
    run_script(script)
    assert os.listdir(tmp_path / "figures/epoch_1") == ["logits.png"]
