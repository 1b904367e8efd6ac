"""What docs/existing_project.md promises: its diff, several loaders, arrays, a cache over other data, averages."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.tuner import Tuner
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader

from helpers.doc_pages import ROOT, blocks
from helpers.replaced_trainer import replace_trainer
from helpers.tiny import Net, make_images, sgd, tmkd_module
from tmkd_lightning import TMKDModule
from tmkd_lightning.callbacks import TeacherCache
from tmkd_lightning.data import DigitsDataModule, EpochSampler, SeededDataset, collate, training_fingerprint
from tmkd_lightning.distillers import KD

PLAIN: dict[str, Any] = {"views": ["rgb"], "text_weight": 0, "feature_weight": 0, "distiller": KD()}


def module(**options: Any) -> TMKDModule:
    torch.manual_seed(0)
    return tmkd_module(Net(16), Net(), **{**PLAIN, "optimizer": sgd, **options})


def applied(text: str, diff: str) -> str:
    """A text after a diff whose hunks are apart by lines of ``@@``; what a hunk takes away must be there once."""
    for hunk in re.split(r"^@@.*\n", diff, flags=re.MULTILINE):
        lines = [line or " " for line in hunk.splitlines()]
        old, new = ("\n".join(line[1:] for line in lines if line[0] in signs) for signs in (" -", " +"))
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def test_the_diff_of_the_page_makes_a_distillation(monkeypatch, tmp_path) -> None:
    """Of a dozen lines beside the imports; the teacher's file is a checkpoint of the class that the diff takes out."""
    before, change = blocks((ROOT / "docs/existing_project.md").read_text())[:2]
    added = [line for line in change.code.splitlines() if line.startswith("+") and "import" not in line]
    assert len(added) <= 13
    monkeypatch.chdir(tmp_path)
    quiet = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)
    replace_trainer(monkeypatch, lambda **options: Trainer(accelerator="cpu", **quiet, **options))
    names: dict[str, Any] = {"__name__": "train"}
    teacher = before.code.replace("Classifier(resnet18", "Classifier(resnet34")
    exec(teacher, names)
    names["module"].trainer.save_checkpoint("teacher.ckpt")
    trained = {name: value.clone() for name, value in names["module"].network.state_dict().items()}
    exec(applied(before.code, change.code), names)
    student = names["module"]
    assert {"train/ce", "train/kd", "val/top1"} <= set(student.trainer.callback_metrics)
    assert "train/text" not in student.trainer.callback_metrics
    own = student.teacher.extractor.network.state_dict()
    assert all(value.equal(own[name]) for name, value in trained.items())


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([torch.zeros(2, 3, 8, 8), ("red", "blue")], "labels are words such as 'red'; hand over their places"),
        ((np.zeros((2, 3, 8, 8)), np.zeros(2)), r"got a tuple \(ndarray, ndarray\): make tensors of arrays"),
        (
            [[torch.zeros(2, 3, 8, 8)] * 2] * 2,
            r"got a list \(list, list\): a batch of several loaders; override unpack",
        ),
        ({"a": [torch.zeros(2, 3, 8, 8)] * 2, "b": [torch.zeros(1)]}, r"keys \['a', 'b'\]: a batch of several loaders"),
        ({"image": torch.zeros(1), "label": torch.zeros(1)}, r"override unpack\(self, batch\) to return the two"),
        ([torch.zeros(1)] * 5, r"a list of 5: override unpack"),
    ],
)
def test_a_batch_of_another_form_is_told_what_to_do(batch, message) -> None:
    with pytest.raises(TypeError, match=message):
        module().unpack(batch)


def test_channels_last_are_named(fit) -> None:
    """As albumentations gives them without ToTensorV2."""
    rows = [(image.permute(1, 2, 0).numpy(), label) for image, label in make_images(4)]
    with pytest.raises(
        ValueError, match=r"got \(4, 8, 8, 3\); put the channels first, with albumentations' ToTensorV2"
    ):
        fit(module(), train=DataLoader(rows, batch_size=4))


def test_images_as_arrays_and_several_loaders_to_validate_with(fit) -> None:
    rows = [(image.numpy(), np.int64(label)) for image, label in make_images(12)]
    trainer = fit(module(), train=DataLoader(rows, batch_size=4), val=[DataLoader(rows, 4), DataLoader(rows[:3], 3)])
    assert trainer.callback_metrics.keys() >= {"val/top1/dataloader_idx_0", "val/top1/dataloader_idx_1"}
    only = fit(module(), train=DataLoader(rows, batch_size=4), val=DataLoader(rows[:3], 3)).callback_metrics
    assert trainer.callback_metrics["val/loss/dataloader_idx_1"] == only["val/loss"]


def test_a_batch_of_several_loaders(fit) -> None:
    seen = []

    class Both(TMKDModule):
        def unpack(self, batch: Any) -> Any:
            parts = batch.values() if isinstance(batch, dict) else [batch]
            return torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            seen.append(len(self.preprocess(batch)[0]))

    loaders = {"a": DataLoader(make_images(8), 4), "b": DataLoader(make_images(6, seed=1), 2)}
    fit(Both(Net(16), Net(), **PLAIN), train=CombinedLoader(loaders, "max_size_cycle"), max_epochs=1)
    assert seen == [6, 6, 6]


def test_groups_have_names(fit, prompts, tmp_path) -> None:
    options = {"enable_checkpointing": False, "max_epochs": 1, "callbacks": [LearningRateMonitor("epoch"), prompts()]}
    logger = CSVLogger(tmp_path, name="", version="")
    tmkd = module(
        text_weight=1.0, head_lr_factor=10.0, lr_scheduler=lambda one: torch.optim.lr_scheduler.ConstantLR(one, 1)
    )
    trainer = fit(tmkd, logger=logger, log_every_n_steps=1, **options)
    groups = {group["name"]: group["lr"] for group in trainer.optimizers[0].param_groups}
    assert groups == {"student": pytest.approx(0.01), "heads": pytest.approx(0.1)}
    header = (tmp_path / "metrics.csv").read_text().splitlines()[0]
    assert {"lr-SGD/student", "lr-SGD/heads"} <= set(header.split(","))


class Theirs(LightningDataModule):
    """As on the page; its augmentation is noise, so that rows of another replica would show."""

    def __init__(self, replicas: int = 2) -> None:
        super().__init__()
        noise = lambda image: (image.float() + 20 * torch.rand(3, 1, 1)).clamp(0, 255).to(torch.uint8)  # noqa: E731
        self.data = SeededDataset(make_images(12), noise, seed=0, replicas=replicas)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.data, batch_size=4, sampler=EpochSampler(self.data, seed=0), collate_fn=collate)

    def training_fingerprint(self) -> dict[str, Any]:
        return training_fingerprint(self.data)


class Count(Callback):
    """Counts the images that the teacher has answered."""

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        self.images = 0
        pl_module.teacher.extractor.network.register_forward_hook(lambda net, args, out: self.add(len(args[0])))

    def add(self, images: int) -> None:
        self.images += images


def test_a_cache_over_a_datamodule_of_ones_own(fit, tmp_path) -> None:
    """Four epochs of two replicas: the teacher answers in two, and the student ends as without a cache."""
    ends, count = [], Count()
    for callbacks in ([], [TeacherCache(str(tmp_path), dtype="float32"), count]):
        student = module()
        fit(student, datamodule=Theirs(), max_epochs=4, callbacks=callbacks)
        ends.append(student.student.state_dict())
    assert all(value.equal(ends[1][name]) for name, value in ends[0].items())
    assert 24 <= count.images < 36  # and what the checks before the first step ask
    second = Count()
    fit(module(), datamodule=Theirs(), max_epochs=4, callbacks=[TeacherCache(str(tmp_path), dtype="float32"), second])
    assert second.images == 0


def test_a_cache_says_what_a_datamodule_lacks(fit, tmp_path) -> None:
    class Bare(LightningDataModule):
        def train_dataloader(self) -> Any:
            return DataLoader(make_images(4), 2)

    class Wrong(Bare):
        def training_fingerprint(self) -> dict[str, Any]:
            return {"images": 4}

    cases = [
        (Bare(), "must know the training images, but Bare has no method training_fingerprint: give it one"),
        (Wrong(), r"training_fingerprint of Wrong must return a dict with the numbers images and replicas, each"),
        (Theirs(replicas=0), r"needs images that come again: set augmentation_replicas .* \(it is 0\)"),
    ]
    for data, message in cases:
        with pytest.raises(ValueError, match=message):
            fit(module(), datamodule=data, callbacks=[TeacherCache(str(tmp_path))])
    assert list(tmp_path.iterdir()) == []


def test_averages_of_weights_are_what_is_kept(fit, loader, tmp_path) -> None:
    """Against an average computed here; the file opens and gives the averages to a student of its own."""
    averages: dict[str, torch.Tensor] = {}

    class Average(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
            for name, value in pl_module.student.named_parameters():
                old = averages.get(name, value.detach().clone())
                averages[name] = 0.5 * old + 0.5 * value.detach()

    student = module()
    trainer = fit(student, train=loader(12, 4), max_epochs=1, callbacks=[Average(), EMAWeightAveraging(decay=0.5)])
    trainer.save_checkpoint(tmp_path / "ema.ckpt")
    saved = torch.load(tmp_path / "ema.ckpt", weights_only=True)["state_dict"]
    for name, value in averages.items():
        torch.testing.assert_close(saved[f"student.{name}"], value, rtol=1e-6, atol=1e-7)
    assert not any(name.startswith("teacher.") for name in saved)


def test_the_tuner_finds_a_batch_size(tmp_path) -> None:
    data = DigitsDataModule(train_samples=64, batch_size=2, image_size=8, num_workers=0)
    quiet = dict.fromkeys(["logger", "enable_progress_bar", "enable_model_summary"], False)
    network = tmkd_module(Net(16, 10), Net(8, 10), **PLAIN, optimizer=sgd)
    found = Tuner(Trainer(accelerator="cpu", max_epochs=1, default_root_dir=tmp_path, **quiet)).scale_batch_size(
        network, datamodule=data, max_trials=2, steps_per_trial=1
    )
    assert found == data.batch_size == 4
