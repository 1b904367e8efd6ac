"""What a Trainer sees of a datamodule: order and augmentation by epoch, whatever the workers and restarts."""

import pytest
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from tmkd_lightning import ClassifierModule
from tmkd_lightning.data import DataError, DigitsDataModule


class Seen(Callback):
    """Labels and pixel sums of every training batch, by epoch."""

    def __init__(self) -> None:
        self.epochs: dict[int, list[tuple[list[int], int]]] = {}

    def on_train_batch_start(self, trainer, module, batch, index) -> None:
        image, label = batch
        self.epochs.setdefault(trainer.current_epoch, []).append((label.tolist(), int(image.sum())))


def run(net, fit, tmp_path, workers: int, every: int | None = None, batch_size: int = 8, **options):
    """Trains on 20 digits; gives what was seen."""
    seen, saving = Seen(), {"filename": "last", "every_n_train_steps": every, "enable_version_counter": False}
    data = DigitsDataModule(train_samples=20, batch_size=batch_size, image_size=16, num_workers=workers)
    options |= {"callbacks": [seen, ModelCheckpoint(tmp_path, **saving)], "enable_checkpointing": True}
    fit(ClassifierModule(net(4, 10)), datamodule=data, limit_val_batches=0, **options)
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


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_run_gives_what_an_undisturbed_one_would(undisturbed, net, fit, tmp_path, workers) -> None:
    """Workers begin with the epoch of the checkpoint, although Lightning makes their iterator before it is read."""
    first = run(net, fit, tmp_path, workers=0, max_epochs=1)
    rest = run(net, fit, tmp_path, workers=workers, max_epochs=3, ckpt_path=tmp_path / "last.ckpt")
    assert first | rest == undisturbed
    assert sorted(rest) == [1, 2]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_was_cut_off_within_an_epoch_sees_the_rest_of_it(net, fit, tmp_path, workers) -> None:
    """20 images in 3 batches; the checkpoint is of the second batch of the second epoch."""
    undisturbed = run(net, fit, tmp_path, workers=0, every=5, max_epochs=3)
    rest = run(net, fit, tmp_path, workers=workers, max_epochs=3, ckpt_path=tmp_path / "last.ckpt")
    assert rest == {1: undisturbed[1][2:], 2: undisturbed[2]}


def test_within_an_epoch_the_batches_must_stay_as_they_were(net, fit, tmp_path) -> None:
    other = {"workers": 0, "batch_size": 4, "max_epochs": 3, "ckpt_path": tmp_path / "last.ckpt"}
    warning = r"of a run that trained on 3 batches and 20 images in an epoch, and now there are 5 .*it is another run"
    message = r"after 2 steps of an epoch with \{'batch_size': 8, .*and now they are \{'batch_size': 4,"
    run(net, fit, tmp_path, workers=0, every=5, max_epochs=2)
    with pytest.warns(UserWarning, match=warning), pytest.raises(DataError, match=message):
        run(net, fit, tmp_path, **other)
    run(net, fit, tmp_path, workers=0, max_epochs=2)
    with pytest.warns(UserWarning, match=warning):
        epochs = run(net, fit, tmp_path, **other)
    assert [len(epochs[2]), len(epochs[2][0][0])] == [5, 4]  # between epochs they may change


def test_data_that_are_trained_on_twice_begin_anew(net, fit, tmp_path) -> None:
    """And are whole for whoever looks at them in between."""
    data = DigitsDataModule(train_samples=20, batch_size=8, image_size=16, num_workers=2)
    runs = []
    for _ in range(2):
        seen = Seen()
        fit(ClassifierModule(net(4, 10)), datamodule=data, callbacks=[seen], limit_val_batches=0)
        runs.append(seen.epochs)
        assert [len(label) for _, label in data.train_dataloader()] == [8, 8, 4]
    assert runs[0] == runs[1]
