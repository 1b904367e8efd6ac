"""What is measured: the definitions of torchmetrics, whatever the order of the images, at O(K)."""

from __future__ import annotations

import csv
from collections import Counter
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy, MulticlassRecall

from helpers.waiting import Waits
from tmkd_lightning import ClassifierModule
from tmkd_lightning.callbacks import Figures
from tmkd_lightning.modules.metrics import LoaderMetrics, MeanRecall, TopAccuracy, classification_metrics

NETWORKS = ("random", "constant", "perfect", "all alike")
CLASSES, IMAGES, BATCH = (2, 3, 10), 48, 8


def answers(network: str, label: Tensor, classes: int) -> Tensor:
    generator = torch.Generator().manual_seed(classes)
    return {
        "random": torch.randn(len(label), classes, generator=generator),
        "constant": torch.arange(classes, 0, -1.0).repeat(len(label), 1),  # the classes in one order, to everything
        "perfect": torch.eye(classes)[label] + 0.1 * torch.rand(len(label), classes, generator=generator),
        "all alike": torch.zeros(len(label), classes),
    }[network]


def by_loops(logits: Tensor, label: Tensor) -> dict[str, float]:
    best = [row.tolist().index(max(row.tolist())) for row in logits]
    wanted = label.tolist()
    occurs = set(best) | set(wanted)
    total, right = Counter(wanted), Counter(a for a, b in zip(best, wanted, strict=True) if a == b)
    recall = sum(right[one] / total[one] for one in occurs if total[one]) / len(occurs)
    losses = [row.logsumexp(0).item() - row[its].item() for row, its in zip(logits, wanted, strict=True)]
    ranked = [sorted(range(len(row)), key=lambda place, row=row: -row[place]) for row in logits.tolist()]
    top5 = sum(its in order[:5] for order, its in zip(ranked, wanted, strict=True)) / len(wanted)
    measured = {"top1": sum(right.values()) / len(wanted), "top5": top5, "recall": recall}
    return {**measured, "loss": sum(losses) / len(wanted)}


@pytest.mark.parametrize("order", ["sorted", "shuffled", "one class a batch but the last"])
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("classes", CLASSES)
def test_they_are_torchmetrics_own_without_groups(classes: int, network: str, order: str) -> None:
    label = torch.arange(IMAGES) * classes // IMAGES
    if order == "shuffled":
        label = label[torch.randperm(IMAGES, generator=torch.Generator().manual_seed(1))]
    elif order != "sorted":
        label = torch.zeros(IMAGES, dtype=torch.long)
        label[-1] = classes - 1
    logits = answers(network, label, classes)
    ours = classification_metrics(classes)
    theirs = {
        "top1": MulticlassAccuracy(classes, average="micro"),
        "top5": MulticlassAccuracy(classes, top_k=min(5, classes), average="micro"),
        "recall": MulticlassRecall(classes, average="macro"),
    }
    for part in torch.arange(IMAGES).split(BATCH):
        ours.update(logits[part], label[part])
        for metric in theirs.values():
            metric.update(logits[part], label[part])
    got = {name: value.item() for name, value in ours.compute().items()}
    if network == "all alike":
        del theirs["top5"]  # which five of ten equal logits count, torch.topk does not say
    for name, metric in theirs.items():
        assert got[name] == pytest.approx(metric.compute().item(), abs=1e-6), name
    for name, value in by_loops(logits, label).items():
        assert got[name] == pytest.approx(value, abs=1e-5), name


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_top5_is_never_below_top1(kind: torch.dtype) -> None:
    """Logits in half precision tie, and a network that says one class to everything is right about that class."""
    logits = torch.randn(200, 100, generator=torch.Generator().manual_seed(0)).to(kind).float()
    for each, label in ((logits, logits.argmax(1)), (torch.zeros(50, 10), torch.zeros(50, dtype=torch.long))):
        one, five = TopAccuracy(1), TopAccuracy(5)
        for metric in (one, five):
            metric.update(each, label)
        assert one.compute() == five.compute() == 1.0
    worthless = TopAccuracy(5)
    worthless.update(torch.full((4, 10), float("nan")), torch.zeros(4, dtype=torch.long))
    assert worthless.compute() == 0.0


class Table(nn.Module):
    """Answers what the first pixels of an image say."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes, self.fc = classes, nn.Linear(classes, classes)
        nn.init.eye_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def forward(self, image: Tensor) -> Tensor:
        return self.fc(image.flatten(1)[:, : self.classes])


def module_of(classes: int) -> ClassifierModule:
    return ClassifierModule(Table(classes), normalized_with=((0, 0, 0), (1, 1, 1)))


def data(logits: Tensor, label: Tensor, batch_size: int = BATCH) -> DataLoader[Any]:
    """Images of 4 by 4 pixels whose first ones are the (normalised) logits, here in [0, 1]."""
    pixels = torch.zeros(len(label), 48)
    pixels[:, : logits.shape[1]] = logits
    return DataLoader(TensorDataset(pixels.view(-1, 3, 4, 4), label), batch_size)


def trainer_with(**options: Any) -> Trainer:
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(accelerator="cpu", logger=False, **quiet, **options)


def test_top5_does_not_depend_on_the_order_of_the_images() -> None:
    """Classes 0 to 4, all among the first five answers, and the first answer always 0: the first batch agrees."""
    label = torch.arange(40) // 8
    logits = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0, 0, 0, 0, 0]).repeat(40, 1)
    for order in (torch.arange(40), torch.randperm(40)):
        (got,) = trainer_with().test(module_of(10), data(logits, label[order]), verbose=False)
        del got["test/loss"]
        assert got == pytest.approx({"test/top1": 0.2, "test/top5": 1.0, "test/recall": 0.2})


def test_counts_are_as_many_as_classes_and_nothing_waits_for_the_device() -> None:
    metrics = LoaderMetrics(21_000, "val/").of_loader[0]
    logits, label = torch.randn(4, 21_000), torch.tensor([0, 7, 7, 20_999])
    with Waits() as watch:
        metrics.update(logits, label)
    assert not watch.seen
    states = [state for metric in metrics.values() for state in metric.metric_state.values()]
    assert sum(state.numel() for state in states) <= 3 * 21_000 + 6


def test_processes_add_their_counts_up() -> None:
    """What torchmetrics does with the states of all processes is their sum; an absent class must stay absent."""
    logits, label = torch.randn(20, 6), torch.randint(4, (20,))
    whole, parts = classification_metrics(6), [classification_metrics(6), classification_metrics(6)]
    whole.update(logits, label)
    for part, rows in zip(parts, (slice(0, 13), slice(13, 20)), strict=True):
        part.update(logits[rows], label[rows])
    for name, metric in whole.items():
        assert all(reduction.__name__ == "dim_zero_sum" for reduction in metric._reductions.values())
        one, other = (part[name] for part in parts)
        for state, value in one.metric_state.items():
            setattr(one, state, value + other.metric_state[state])
        assert one.compute().item() == pytest.approx(metric.compute().item()), name


def test_metrics_live_on_after_a_run_in_inference_mode() -> None:
    """Counts that were reset in it could not be changed in place outside of it."""
    module, loader = module_of(3), data(torch.eye(3)[[0, 1]], torch.tensor([0, 2]))
    first = trainer_with().validate(module, loader, verbose=False)
    assert trainer_with(inference_mode=False).validate(module, loader, verbose=False) == first


# Several loaders

FIRST = data(torch.eye(3)[[0, 1, 2, 2]], torch.tensor([0, 1, 2, 0]), 2)  # top-1 3/4, recall (1/2 + 1 + 1) / 3
SECOND = data(torch.eye(3)[[0, 0]], torch.tensor([0, 1]), 2)  # top-1 1/2, recall (1 + 0) / 2
SEVERAL = {
    f"{name}/dataloader_idx_{index}": value
    for name, values in {"top1": (0.75, 0.5), "recall": (5 / 6, 0.5), "top5": (1.0, 1.0)}.items()
    for index, value in enumerate(values)
}
TRAIN = DataLoader([(torch.rand(3, 4, 4), index % 3) for index in range(6)], 3)


class Careless(ClassifierModule):
    """A step of one's own that does not hand on which loader it is."""

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        super().validation_step(batch, batch_idx)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        super().test_step(batch, batch_idx)


@pytest.mark.parametrize("kind", [ClassifierModule, Careless])
@pytest.mark.parametrize("stage", ["validate", "test"])
def test_each_loader_has_numbers_of_its_own(kind: type[ClassifierModule], stage: str) -> None:
    module = kind(Table(3), normalized_with=((0, 0, 0), (1, 1, 1)))
    trainer = trainer_with()
    prefix = {"validate": "val/", "test": "test/"}[stage]
    for _ in range(2):  # nothing is left over from the run before
        measured = getattr(trainer, stage)(module, [FIRST, SECOND], verbose=False)
        got = {name.removeprefix(prefix): value for one in measured for name, value in one.items()}
        assert {name: got[name] for name in SEVERAL} == pytest.approx(SEVERAL)
    (alone,) = getattr(trainer, stage)(module, SECOND, verbose=False)
    assert alone[f"{prefix}top1"] == 0.5  # under the name of a single loader
    first, second = trainer.predict(module, [FIRST, SECOND])
    assert [len(first), len(second)] == [2, 1]


def test_training_with_two_validation_sets(fit, tmp_path) -> None:
    """A checkpoint chooses by one of them, the log has both, and the curves are of the first."""
    module = ClassifierModule(Table(3), optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
    save = ModelCheckpoint(tmp_path, filename="best", monitor="val/top1/dataloader_idx_1", mode="max")
    figures = Figures(["curves"], formats=[])
    options = {"enable_checkpointing": True, "logger": CSVLogger(tmp_path, "run", version="")}
    trainer = fit(module, train=TRAIN, val=[FIRST, SECOND], callbacks=[save, figures], **options)
    assert save.best_model_score.item() == 0.5
    assert figures._history.accuracy == {0: 0.75, 1: 0.75}
    with open(tmp_path / "run" / "metrics.csv", encoding="utf-8") as file:
        row = next(row for row in csv.DictReader(file) if row.get("val/top1/dataloader_idx_0"))
    for name, value in SEVERAL.items():
        assert float(row[f"val/{name}"]) == pytest.approx(value), name
    assert trainer.callback_metrics["val/top1/dataloader_idx_0"].item() == 0.75


def test_several_loaders_in_the_size_that_the_data_ask_for(fit) -> None:
    module = ClassifierModule(Table(5), num_classes="data", optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
    for num_classes in (7, 3):
        data = LightningDataModule.from_datasets()
        data.train_dataloader, data.val_dataloader = lambda: TRAIN, lambda: [FIRST, SECOND]
        data.num_classes = num_classes
        trainer = fit(module, datamodule=data, max_epochs=1)
        for loader in range(2):
            assert len(module.val_metrics.of_loader[loader]["recall"].right) == num_classes
            assert 0 <= trainer.callback_metrics[f"val/recall/dataloader_idx_{loader}"].item() <= 1


def test_by_hand() -> None:
    """Three of four right, none of the other two; class 3 is only ever an answer, class 4 does not occur."""
    recall, top2 = MeanRecall(5), TopAccuracy(2)
    logits = torch.eye(5)[[0, 0, 0, 3, 0, 3]] + 0.5 * torch.eye(5)[[1, 1, 1, 1, 1, 4]]
    label = torch.tensor([0, 0, 0, 0, 1, 2])
    for metric in (recall, top2):
        metric.update(logits, label)
    assert recall.compute().item() == pytest.approx(0.75 / 4)
    assert top2.compute().item() == pytest.approx(4 / 6)
