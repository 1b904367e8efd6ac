"""What a Trainer sees of a datamodule: order and augmentation by epoch, whatever the workers and restarts."""

from __future__ import annotations

import pytest
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from tmkd_lightning import ClassifierModule
from tmkd_lightning.data import DigitsDataModule


class Seen(Callback):
    """Labels and pixel sums of every training batch, by epoch."""

    def __init__(self) -> None:
        self.epochs: dict[int, list[tuple[list[int], int]]] = {}

    def on_train_batch_start(self, trainer, module, batch, index) -> None:
        image, label = batch
        self.epochs.setdefault(trainer.current_epoch, []).append((label.tolist(), int(image.sum())))


def run(net, fit, tmp_path, workers: int, **options) -> dict[int, list[tuple[list[int], int]]]:
    seen = Seen()
    data = DigitsDataModule(train_samples=20, batch_size=8, image_size=16, num_workers=workers)
    callbacks = [seen, ModelCheckpoint(tmp_path, filename="last", enable_version_counter=False)]
    fit(
        ClassifierModule(net(4, 10)),
        datamodule=data,
        callbacks=callbacks,
        enable_checkpointing=True,
        limit_val_batches=0,
        **options,
    )
    return seen.epochs


@pytest.fixture
def undisturbed(net, fit, tmp_path):
    return run(net, fit, tmp_path, workers=0, max_epochs=3)


def test_epochs_differ_in_order_and_in_augmentation(undisturbed) -> None:
    assert len(undisturbed) == 3
    labels = [[label for batch, _ in epoch for label in batch] for epoch in undisturbed.values()]
    assert sorted(labels[0]) == sorted(labels[1]) == sorted([*range(10)] * 2)  # everything once, in each epoch
    assert labels[0] != labels[1]
    totals = [sum(total for _, total in epoch) for epoch in undisturbed.values()]
    assert len(set(totals)) == 3  # shifted differently


def test_workers_that_live_through_the_epochs_give_the_same(undisturbed, net, fit, tmp_path) -> None:
    assert run(net, fit, tmp_path, workers=2, max_epochs=3) == undisturbed


def test_resumed_run_gives_what_an_undisturbed_one_would(undisturbed, net, fit, tmp_path) -> None:
    first = run(net, fit, tmp_path, workers=0, max_epochs=1)
    rest = run(net, fit, tmp_path, workers=0, max_epochs=3, ckpt_path=tmp_path / "last.ckpt")
    assert first | rest == undisturbed
    assert sorted(rest) == [1, 2]
