"""Training on a stream: resumed, in two processes, and with a teacher cache."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.types import STEP_OUTPUT

from helpers.resume_run import classifier, network, seeded, sgd, tmkd, train
from helpers.tiny import tmkd_module
from integration.test_resume import KillAt, KilledError, moved
from tmkd_lightning import ClassifierModule
from tmkd_lightning.callbacks import TeacherCache
from tmkd_lightning.data import DigitsDataModule, ImageDataModule, StreamDataModule
from tmkd_lightning.data.shards.writing import write_stream
from tmkd_lightning.distillers import CRD, KD
from tmkd_lightning.figures.curves import read_curve

pytest.importorskip("litdata")


class Few(DigitsDataModule):
    """With nine images to validate on."""

    def samples(self, split: str):
        return super().samples(split)[: 9 if split != "train" else None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("streams")
    write_stream(Few(train_samples=50), folder / "50", shard_bytes=2500)
    write_stream(Few(train_samples=48), folder / "48", shard_bytes=2500)
    return folder


@pytest.mark.parametrize(
    ("workers", "options", "step", "seen"),
    [
        (0, {}, 5, 4),  # killed in the second epoch, and resumed after the first
        # resumed in the middle of the second
        pytest.param(2, {"val_check_interval": 0.5}, 7, 6, marks=pytest.mark.slow),
        (0, {"limit_train_batches": 3}, 4, 3),  # whose end LitData takes for the middle
    ],
)
def test_a_killed_run_ends_as_an_undisturbed_one(workers, options, step, seen, folder, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = partial(StreamDataModule, str(folder / "50"), batch_size=16, image_size=16, num_workers=workers)
    make = tmkd if "limit_train_batches" in options else classifier
    options, last = {"epochs": 2, **options}, tmp_path / "b" / "last.ckpt"
    whole, _ = train(seeded(make, 7), tmp_path / "a", data=data(), **options)
    with pytest.raises(KilledError):
        train(seeded(make, 7), tmp_path / "b", KillAt(step), data=data(), **options)
    assert torch.load(last, weights_only=True)["global_step"] == seen
    ended, _ = train(seeded(make, 8), tmp_path / "b", data=data(), resume=last, **options)
    assert moved(whole, ended) == []
    assert read_curve(tmp_path / "b") == read_curve(tmp_path / "a")


class Rows(Callback):
    """Notes the rows of each step and the images that are measured, and writes them for each process."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.rows, self.measured = folder, [], 0

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        self.rows.append(batch[2].tolist())

    def on_validation_batch_end(self, trainer, module, outputs: STEP_OUTPUT, batch, batch_idx) -> None:
        self.measured += len(batch[1])

    def on_fit_end(self, trainer, module) -> None:
        state = {name: value.clone() for name, value in module.state_dict().items()}
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val")}
        found = {"rows": self.rows, "measured": self.measured, "state": state, "metrics": metrics}
        torch.save(found, self.folder / f"rank{trainer.global_rank}.pt")


def fit(folder: Path, data: ImageDataModule, *callbacks: Callback, module=None, processes: int = 2, **options):
    """What each of two forked processes writes."""
    folder.mkdir()
    trainer = Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp_fork" if processes > 1 else "auto",
        logger=False,
        enable_checkpointing=any(isinstance(one, ModelCheckpoint) for one in callbacks),
        callbacks=[Rows(folder), *callbacks],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **{"max_epochs": 2, **{k: v for k, v in options.items() if k != "ckpt_path"}},
    )
    trainer.fit(
        module or ClassifierModule(network(4), optimizer=sgd),
        datamodule=data,
        ckpt_path=options.get("ckpt_path"),
        weights_only=True,
    )
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(processes)]


@pytest.fixture(scope="module")
def two(folder) -> tuple[Path, list]:
    """Two epochs of two processes, and a checkpoint within the second."""
    saving = ModelCheckpoint(folder, filename="middle", every_n_train_steps=8, save_top_k=-1)
    return folder / "middle.ckpt", fit(folder / "whole", pairs(folder), saving)


def pairs(folder: Path) -> StreamDataModule:
    options = {"batch_size": 4, "image_size": 16, "num_workers": 1, "augmentation_replicas": 2}
    return StreamDataModule(str(folder / "48"), **options)


@pytest.mark.slow
def test_two_processes_see_each_image_once_and_measure_each_once(two) -> None:
    ranks = two[1]
    assert [[len(batch) for batch in rank["rows"]] for rank in ranks] == [[4] * 12] * 2
    for epoch, part in enumerate((slice(0, 6), slice(6, None))):
        rows = [row for rank in ranks for batch in rank["rows"][part] for row in batch]
        assert sorted(rows) == list(range(48 * epoch, 48 * epoch + 48))
    assert [rank["measured"] for rank in ranks] == [2 * 5, 2 * 4]
    assert ranks[0]["metrics"] == ranks[1]["metrics"]
    for name, value in ranks[0]["state"].items():
        assert value.equal(ranks[1]["state"][name]) or "running" in name


@pytest.mark.slow
def test_two_processes_resume_within_an_epoch(two, folder) -> None:
    checkpoint, whole = two
    again = fit(folder / "again", pairs(folder), ckpt_path=checkpoint)
    for one, other in zip(whole, again, strict=True):
        assert other["rows"] == one["rows"][8:]
        assert moved(one["state"], other["state"]) == []


def test_a_teacher_cache_replaces_the_teacher_on_a_stream(folder, tmp_path) -> None:
    """With values as stored in float32, the student is that of a run without a cache; CRD has the places it needs."""

    def run(name: str, method, *callbacks: Callback):
        torch.manual_seed(0)
        options = {"fusion": "mean", "text_weight": 0, "feature_weight": 0, "logit_weight": 0, "optimizer": sgd}
        module = tmkd_module(network(8), network(4), distiller=method, **options)
        data = StreamDataModule(
            str(folder / "50"), batch_size=16, image_size=16, num_workers=0, augmentation_replicas=1
        )
        (found,) = fit(tmp_path / name, data, *callbacks, module=module, processes=1)
        return found, module

    live, _ = run("live", KD())
    cache = TeacherCache(str(tmp_path / "cache"), dtype="float32")
    cached, _ = run("cached", KD(), cache)
    assert moved(live["state"], cached["state"]) == []
    fresh = TeacherCache(str(tmp_path / "cache"), dtype="float32")
    states = []
    fresh.on_train_start = lambda trainer, module: states.append(fresh.complete)
    again, _ = run("again", KD(), fresh)
    assert states == [True]
    assert moved(live["state"], again["state"]) == []
    _, module = run("crd", CRD(negatives=8, width=4))
    source = StreamDataModule(str(folder / "50")).samples("train")
    classes = next(value for name, value in module.state_dict().items() if name.endswith("classes"))
    assert np.array_equal(classes, [label for _, label in source])
