"""The look at the teacher, and what else looks at a few validation images: from all over them."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, SubsetRandomSampler

from helpers.tiny import tmkd_module
from tmkd_lightning import ClassifierModule, Extractor, TMKDModule, View
from tmkd_lightning.callbacks import Figures, TeacherAccuracyCheck, figures
from tmkd_lightning.callbacks.validation_batches import spread_over
from tmkd_lightning.cli.figures import collect

SORTED = [index // 20 for index in range(60)]  # twenty images of each of three classes


class Rows(Dataset[Any]):
    """Images whose every pixel is their number by 200, and which remembers what was read."""

    def __init__(self, labels: list[int] = SORTED) -> None:
        self.labels, self.read = labels, []

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Any:
        self.read.append(index)
        return torch.full((3, 8, 8), index / 200), self.labels[index]


def student(net, teacher: Any = None, **options: Any) -> TMKDModule:
    return tmkd_module(teacher or net(16), net(), **{"views": ["rgb"], "text_weight": 0, **options})


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return (Rows()[index] for index in range(60))


@pytest.fixture
def look(net, fit, caplog):
    """Trains with a teacher that says class 0 to everything, and gives the line that is printed."""

    def run(val: Any, check: TeacherAccuracyCheck | None = None, module: Any = None, **options: Any) -> str:
        teacher = net(16)
        torch.nn.init.zeros_(teacher.fc.weight)
        teacher.fc.bias.data = torch.tensor([9.0, 0, 0])
        module = module or student(net, teacher)
        options = {"limit_train_batches": 1, "max_epochs": 1, "num_sanity_val_steps": 0, **options}
        with caplog.at_level("INFO"):
            fit(module, val=val, callbacks=[check] if check else [], **options)
        (line,) = [one.message for one in caplog.records if one.message.startswith("Teacher ")]
        return line

    return run


GUESSING = "hardly better than guessing .*says class 0 to every image"


LOADERS = {  # all forms whose images can be had by index; each would begin with class 0 alone
    "plain": lambda: DataLoader(Rows(), 4),
    "last one left out": lambda: DataLoader(Rows(), 8, drop_last=True),
    "workers": lambda: DataLoader(Rows(), 4, num_workers=1, persistent_workers=True),
    "a sampler of its own": lambda: DataLoader(Rows([0] * 60 + SORTED), 4, sampler=range(60, 120)),
}


@pytest.mark.parametrize("kind", LOADERS)
def test_a_collapsed_teacher_is_found_out_on_sorted_images(look, kind) -> None:
    with pytest.warns(UserWarning, match=GUESSING):
        line = look(LOADERS[kind]())
    images = 32 if kind == "last one left out" else 16
    assert line.startswith(f"Teacher Net on {images} validation images, top-1: rgb ")
    mean = float(line.partition(";")[0].rpartition(" ")[2].rstrip("%"))
    assert mean < 51  # a quarter of four batches may be two of class 0


def test_each_view_is_reported_and_a_ruined_one_warned_of(net, loader, look) -> None:
    teacher = net(16)
    with torch.no_grad():  # a teacher that knows the classes: the mean brightness of each channel
        teacher.conv.weight.zero_()
        teacher.conv.weight[range(3), range(3), 1, 1] = 1
        teacher.fc.weight.zero_()
        teacher.fc.weight[:, :3] = torch.eye(3) * 50
        teacher.fc.bias.zero_()
    black = View("black", torch.zeros_like, "a black picture of a {class}")
    plain = Extractor(teacher, mean=(0, 0, 0), std=(1, 1, 1))
    with pytest.warns(UserWarning, match="'black' takes the teacher from 100.0% to 33.3%"):
        line = look(loader(), module=student(net, plain, views=["rgb", black], fusion="mean"))
    assert "Teacher Net on 24 validation images, top-1: rgb 100.0%, black 33.3%" in line


def test_the_plain_image_is_measured_too(net, loader, look) -> None:
    line = look(loader(), module=student(net, views=["edge"]))
    assert "rgb" in line
    assert "edge" in line
    assert "mean of views" not in line  # of one view there is none


def test_only_what_is_looked_at_is_read_and_in_order() -> None:
    rows = Rows()
    batches = list(spread_over(DataLoader(rows, 4), 3))
    assert [len(label) for _, label in batches] == [4, 4, 4]
    assert rows.read == sorted(set(rows.read))
    assert [index // 5 for index in rows.read] == list(range(12))  # one of each twelfth
    chosen = spread_over(DataLoader(rows, 4, sampler=SubsetRandomSampler(range(40, 60))), 2)
    read = [index for image, _ in chosen for index in (image[:, 0, 0, 0] * 200).round().tolist()]
    assert len(read) == 8
    assert min(read) >= 40
    in_turn = spread_over(DataLoader(Rows([index % 3 for index in range(48)]), 4), 4)  # every third is of one class
    assert torch.cat([label for _, label in in_turn]).bincount(minlength=3).min() >= 3


@pytest.mark.parametrize(
    ("options", "images"),
    [
        ({"limit_val_batches": 2}, 8),
        ({"limit_val_batches": 0.2}, 12),  # three of fifteen
        ({"limit_val_batches": 1.0}, 16),
        ({"fast_dev_run": True}, 4),
        ({"check": TeacherAccuracyCheck(2)}, 8),
        ({"check": TeacherAccuracyCheck(100)}, 60),
    ],
)
def test_no_more_is_read_than_validation_may(look, options, images) -> None:
    with pytest.warns(UserWarning, match=GUESSING):
        line = look(DataLoader(Rows(), 4), **options)
    assert f"on {images} validation images, top-1" in line


@pytest.mark.parametrize("options", [{"limit_val_batches": 0}, {"val": None}], ids=str)
def test_no_look_where_nothing_is_validated(look, options) -> None:
    rows = Rows()
    line = look(**{"val": DataLoader(rows, 4), **options})
    assert line == "Teacher Net was not measured: there are no validation batches"
    assert rows.read == []


@pytest.mark.parametrize(
    "val",
    [DataLoader(Stream(), 4), DataLoader(Rows(), batch_sampler=BatchSampler(range(60), 4, drop_last=False))],
    ids=["no index", "batches made by a sampler"],
)
def test_images_that_cannot_be_had_by_index_are_the_first_and_the_line_says_so(look, val) -> None:
    told = "on 16 validation images (the first 4 batches, as this loader gives no others by index; all of class 0"
    assert told in look(val)


def test_the_first_of_several_loaders_is_looked_at(look) -> None:
    other = Rows()
    with pytest.warns(UserWarning, match=GUESSING):
        look([DataLoader(Rows(), 4), DataLoader(other, 4)], limit_val_batches=4)
    assert len(other.read) == 16  # by validation alone


def test_figures_of_a_few_batches_show_all_classes(net, fit, monkeypatch) -> None:
    seen = []

    class Collector(figures.OutputCollector):
        def compute(self):
            seen.append(super().compute())
            return seen[-1]

    monkeypatch.setattr(figures, "OutputCollector", Collector)
    for batches, options in (({"batches": 2}, {}), ({}, {"limit_val_batches": 2})):
        options |= {"train": DataLoader(Rows(), 30), "val": DataLoader(Rows(), 4), "max_epochs": 1}
        fit(ClassifierModule(net()), callbacks=[Figures(["logits"], formats=[], **batches)], **options)
    assert len(seen) == 2
    for one in seen:
        assert len(one.labels) == 8
        assert one.labels.bincount(minlength=3).min() >= 2
        assert sorted(one.example_labels.tolist()) == [0, 1, 2]


# What is wrong with an image is not the network's fault


def broken(value: float, at: int) -> DataLoader[Any]:
    images = torch.rand(8, 3, 8, 8)
    images[at, 1, 2, 3] = value
    return DataLoader([(image, index % 3) for index, image in enumerate(images)], 4)


NAN, INFINITE = "holds values that are not a number", r"spans \[.*inf\] \(image 2 of a validation batch of 4 is"


class Foreign(LightningDataModule):
    """Has a transfer hook of its own, in place of the module's, and notes the stages that it sees."""

    def __init__(self, val: DataLoader[Any], train: DataLoader[Any] | None = None) -> None:
        super().__init__()
        self.val, self.train, self.stages = val, train or DataLoader(Rows(), 30), []

    def train_dataloader(self):
        return self.train

    def val_dataloader(self):
        return self.val

    test_dataloader = predict_dataloader = val_dataloader

    def on_before_batch_transfer(self, batch, dataloader_idx):
        self.stages.append(self.trainer.state.stage.value)
        return batch


@pytest.mark.filterwarnings("ignore:You have overridden `on_before_batch_transfer` in both")
def test_hooks_know_that_the_images_are_not_for_training(net, fit) -> None:
    """One that augments on the device asks for the stage; one that builds the batch on the host is asked too."""
    data = Foreign(DataLoader(Rows(), 30))
    fit(student(net), datamodule=data, max_epochs=1, num_sanity_val_steps=0, limit_val_batches=1)
    assert data.stages == ["validate", "train", "train", "validate"]  # the look; the epoch


@pytest.mark.parametrize("sanity", [0, 2])
@pytest.mark.parametrize("foreign", [False, True])
@pytest.mark.parametrize(
    ("value", "message"), [(float("nan"), f"image 2 of a validation batch of 4 {NAN}"), (float("inf"), INFINITE)]
)
def test_a_broken_validation_image_is_named(net, fit, value, message, foreign, sanity) -> None:
    val = broken(value, 2)
    data = {"datamodule": Foreign(val)} if foreign else {"val": val}
    with pytest.raises(ValueError, match=message):
        fit(student(net), num_sanity_val_steps=sanity, limit_val_batches=2, **data)


def test_a_broken_normalised_image_is_named_too(net, fit) -> None:
    module = ClassifierModule(net(), normalized_with=((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))
    with pytest.raises(ValueError, match=f"image 1 of a validation batch of 4 {NAN}"):
        fit(module, val=broken(float("nan"), 1))


@pytest.mark.parametrize("stage", ["train", "validate", "test", "predict"])
def test_each_stage_says_which_it_is(net, fit, stage) -> None:
    said = {"train": "training", "validate": "validation", "test": "test", "predict": "prediction"}[stage]
    module, loader = ClassifierModule(net()), broken(float("nan"), 3)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    run = partial(fit, num_sanity_val_steps=0) if stage == "train" else getattr(trainer, stage)
    for given in ({"train" if stage == "train" else "dataloaders": loader}, {"datamodule": Foreign(loader, loader)}):
        with pytest.raises(ValueError, match=f"image 3 of a {said} batch of 4 {NAN}"):
            run(module, **given)


def test_a_network_asked_by_itself_does_not_take_the_blame(net) -> None:
    image = torch.rand(3, 3, 8, 8)
    image[1, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="image 1 of a batch of 3 holds values that are not a number"):
        ClassifierModule(net())(image)
    sick = net()
    torch.nn.init.constant_(sick.fc.bias, float("nan"))
    with pytest.raises(ValueError, match="Net returned logits that are not finite on the first batch"):
        ClassifierModule(sick)(torch.rand(3, 3, 8, 8))


def test_figures_of_a_finished_run_are_from_all_over_the_split(net) -> None:
    module = ClassifierModule(net())
    data = Foreign(DataLoader(Rows(), 4))
    for split in ("val", "test"):
        seen = collect(module, {"network": module.extractor}, data, split, batches=3, accelerator="cpu")
        assert seen.labels.bincount(minlength=3).tolist() == [4, 4, 4]
        assert sorted(seen.example_labels.tolist()) == [0, 1, 2]
    assert len(collect(module, {"network": module.extractor}, data, accelerator="cpu").labels) == 60
    assert isinstance(data.val_dataloader(), DataLoader)  # the datamodule is as it was
    assert "val_dataloader" not in vars(data)
