"""A run that is cut off anywhere and resumed ends as an undisturbed one: weights, best checkpoint and curves."""

import os
import pickle
from contextlib import chdir
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import ReduceLROnPlateau
from torchvision.transforms.v2 import MixUp

from helpers.resume_run import classifier, seeded, tmkd, train
from helpers.tiny import make_images
from tmkd_lightning import ClassifierModule
from tmkd_lightning.callbacks import StepSeeds
from tmkd_lightning.figures.curves import read_curve
from tmkd_lightning.lightning_compat.atomic_checkpoints import AtomicCheckpointIO, check_whole, is_damaged

EPOCHS, STEPS = 4, 4  # of 16, 16, 16 and 2 images


class KilledError(Exception):
    pass


class KillAt(Callback):
    """Raises in the middle of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_before_zero_grad(self, trainer, module, optimizer) -> None:
        if trainer.global_step == self.step:
            raise KilledError


class Steps(Callback):
    """Logs a metric that only rises."""

    def on_validation_epoch_end(self, trainer, module) -> None:
        module.log("steps", float(trainer.global_step))


def impatient(optimizer) -> ReduceLROnPlateau:
    """Halves the learning rate after every epoch but the first."""
    return ReduceLROnPlateau(optimizer, "val/loss", factor=0.5, patience=0, threshold=10.0)


def best(trainer) -> tuple[float, str]:
    """Score and name of the best checkpoint."""
    record = next(one for one in trainer.checkpoint_callbacks if isinstance(one, ModelCheckpoint) and one.monitor)
    return record.best_model_score.item(), Path(record.best_model_path).name


def moved(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    """Names of the weights that differ."""
    return [name for name, value in one.items() if not value.equal(other[name])]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Trains a module without interruption, once for all tests: its folder, weights and best checkpoint."""

    @cache
    def run(make, **options) -> tuple[Path, dict, tuple[float, str]]:
        folder = tmp_path_factory.mktemp("undisturbed")
        with chdir(folder):
            weights, trainer = train(seeded(make, 7), folder, epochs=EPOCHS, **options)
        return folder, weights, best(trainer)

    return run


PLATEAU = partial(tmkd, lr_scheduler=impatient)
MIXED = partial(tmkd, mix=MixUp(num_classes=10), student_views=["rgb", "edge"])


MAKES = [tmkd, partial(tmkd, fusion_objective="distillation"), PLATEAU, classifier, MIXED]


@pytest.mark.parametrize(
    ("make", "step"),
    [
        *((make, 2 * STEPS + 1) for make in MAKES),
        *((tmkd, step) for step in (STEPS, 4 * STEPS - 1)),
        *(pytest.param(make, step, marks=pytest.mark.slow) for make in MAKES[1:] for step in (STEPS, 4 * STEPS - 1)),
    ],
)
def test_a_killed_run_ends_as_an_undisturbed_one(make, step, undisturbed, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder, whole, record = undisturbed(make)
    with pytest.raises(KilledError):
        train(seeded(make, 7), tmp_path, KillAt(step), epochs=EPOCHS)
    again = seeded(make, 8)  # other weights, other generator: everything must come from the file
    ended, resumed = train(again, tmp_path, epochs=EPOCHS, resume=tmp_path / "last.ckpt")
    assert moved(whole, ended) == []
    assert best(resumed) == record
    assert read_curve(tmp_path) == read_curve(folder)
    steps = [int(row["step"]) for row in read_curve(tmp_path) if "train/loss" in row]
    assert steps == list(range(EPOCHS * STEPS))  # none missing, none twice


@pytest.mark.parametrize("make", [tmkd, PLATEAU])
@pytest.mark.parametrize(("step", "seen"), [(STEPS + 1, STEPS), (STEPS + 3, STEPS + 2)])
def test_a_checkpoint_within_an_epoch_is_gone_on_from(make, step, seen, undisturbed, tmp_path, monkeypatch) -> None:
    """Validated twice an epoch: the images before it are not seen again, those after it are."""
    monkeypatch.chdir(tmp_path)
    twice, last = {"epochs": EPOCHS, "val_check_interval": 0.5}, tmp_path / "last.ckpt"
    folder, whole, _ = undisturbed(make, val_check_interval=0.5)
    with pytest.raises(KilledError):
        train(seeded(make, 7), tmp_path, KillAt(step), **twice)
    assert torch.load(last, weights_only=True)["global_step"] == seen
    ended, _ = train(seeded(make, 8), tmp_path, resume=last, **twice)
    assert moved(whole, ended) == []
    assert read_curve(tmp_path) == read_curve(folder)


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "16-true", "bf16-mixed"])
def test_no_precision_loses_anything(precision, tmp_path, monkeypatch) -> None:
    """Lightning reads 64 bits into a network of 32, and widens it afterwards."""
    monkeypatch.chdir(tmp_path)
    options, last = {"epochs": 2, "precision": precision}, tmp_path / "b" / "last.ckpt"
    whole, _ = train(seeded(tmkd, 7), tmp_path / "a", **options)
    with pytest.raises(KilledError):
        train(seeded(tmkd, 7), tmp_path / "b", KillAt(STEPS + 1), **options)
    ended, trainer = train(seeded(tmkd, 8), tmp_path / "b", resume=last, **options)
    assert moved(whole, ended) == []
    if precision == "64-true":
        assert whole["student.0.weight"].dtype == torch.float64
        module = seeded(tmkd, 8)
        trainer.validate(module, datamodule=trainer.datamodule, ckpt_path=last, verbose=False, weights_only=True)
        assert moved(module.state_dict(), torch.load(last, weights_only=True)["state_dict"]) == []


def resized(net, fit, tmp_path, images: int, last: bool) -> None:
    """Trains on foreign loaders, and from a checkpoint within the last epoch, or of its end, on others."""
    data, every = partial(torch.utils.data.DataLoader, batch_size=6), None if last else 3
    saving = ModelCheckpoint(tmp_path, filename="last", every_n_train_steps=every, enable_version_counter=False)
    options = {"callbacks": [saving], "enable_checkpointing": True, "max_epochs": 1}
    fit(ClassifierModule(net()), train=data(make_images(24)), **options)
    fit(ClassifierModule(net()), train=data(make_images(images)), ckpt_path=tmp_path / "last.ckpt", max_epochs=2)


@pytest.mark.filterwarnings("ignore:the checkpoint is of a run that trained on 4 batches")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize(("images", "now"), [(30, "5 batches and 30"), (23, "4 batches and 23")])
def test_other_training_data_within_an_epoch_are_refused(net, fit, tmp_path, images, now) -> None:
    """And if there are as many batches as before."""
    told = f"made after 3 batches of an epoch of 4 batches and 24 images, and now there are {now} images"
    with pytest.raises(ValueError, match=told):
        resized(net, fit, tmp_path, images, last=False)


def test_other_training_data_after_an_epoch_are_warned_of_and_the_same_are_not(net, fit, tmp_path, recwarn) -> None:
    for last in (False, True):
        resized(net, fit, tmp_path, 24, last)
    assert not [one for one in recwarn if "from here on" in str(one.message)]
    told = "trained on 4 batches and 24 images in an epoch, and now there are 5 batches and 30 images: from here on"
    with pytest.warns(UserWarning, match=told):
        resized(net, fit, tmp_path, 30, last=True)


@pytest.mark.filterwarnings("ignore:.*could not find the monitored key")  # the run ends before its validation
def test_a_run_that_is_resumed_at_its_end_keeps_its_curve_and_max_steps_is_warned_of(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    train(seeded(tmkd, 7), tmp_path, epochs=1)
    train(seeded(tmkd, 7), tmp_path, epochs=1, resume=tmp_path / "last.ckpt")
    assert len(read_curve(tmp_path)) == STEPS + 1
    with pytest.warns(UserWarning, match="resuming a run with max_steps: .* give the length of the run in max_epochs"):
        train(seeded(tmkd, 7), tmp_path, epochs=2, resume=tmp_path / "last.ckpt", max_steps=6)


def test_an_epoch_that_was_better_is_no_end_and_a_run_that_stopped_early_has_ended(tmp_path, monkeypatch) -> None:
    """Without any patience: the count of bad epochs is 0, and so is the patience."""
    monkeypatch.chdir(tmp_path)
    stop = partial(EarlyStopping, "steps", patience=0, mode="max")
    train(seeded(tmkd, 7), tmp_path, Steps(), stop(), epochs=1)
    _, trainer = train(seeded(tmkd, 7), tmp_path, Steps(), stop(), epochs=2, resume=tmp_path / "last.ckpt")
    assert trainer.global_step == 2 * STEPS
    early, stop = tmp_path / "early", partial(EarlyStopping, "val/loss", patience=1, min_delta=10.0)
    train(seeded(tmkd, 7), early, stop(), epochs=9)
    assert torch.load(early / "last.ckpt", weights_only=True)["global_step"] == 2 * STEPS
    with pytest.warns(UserWarning, match="EarlyStopping had ended this run"):
        _, trainer = train(seeded(tmkd, 7), early, stop(), epochs=9, resume=early / "last.ckpt")
    assert trainer.global_step == 2 * STEPS


def test_gradients_that_a_checkpoint_does_not_hold_are_warned_of(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"accumulate_grad_batches": 2, "val_check_interval": 3}
    with pytest.raises(KilledError):
        train(seeded(tmkd, 7), tmp_path, KillAt(2), epochs=2, **options)
    with pytest.warns(UserWarning, match="after batch 2, while gradients were summed over 2 batches"):
        train(seeded(tmkd, 7), tmp_path, epochs=2, resume=tmp_path / "last.ckpt", **options)


def drawn(*place: int) -> torch.Tensor:
    """What a step draws."""
    seeds = StepSeeds(seed=3)
    seeds.begin(torch.device("cpu"), *place)
    numbers = torch.rand(3)
    seeds.end()
    return numbers


def test_what_a_step_draws_depends_on_process_epoch_and_batch_and_not_on_what_was_drawn_before() -> None:
    first = drawn(0, 2, 5)
    torch.rand(100)
    assert drawn(0, 2, 5).equal(first)
    for other in ((1, 2, 5), (0, 3, 5), (0, 2, 6)):
        assert not drawn(*other).equal(first)


def test_a_step_leaves_the_generator_as_it_was_even_if_it_fails(net, fit) -> None:
    class Fails(ClassifierModule):
        def training_step(self, batch, batch_idx):
            raise KilledError

    torch.manual_seed(11)
    expected = torch.rand(1)
    torch.manual_seed(11)
    drawn(0, 0, 0)
    assert torch.rand(1).equal(expected)
    assert torch.initial_seed() == 11
    with pytest.raises(KilledError):
        fit(Fails(net()))
    assert torch.initial_seed() == 11


def test_a_seed_of_ones_own_is_kept(tmp_path) -> None:
    module = seeded(classifier, 7)
    train(module, tmp_path, own := StepSeeds(seed=5), epochs=1)
    states = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]
    assert (own.seed, states["StepSeeds"]) == (5, {"seed": 5})


@pytest.fixture
def folder(tmp_path) -> Path:
    for name, step in (("best", 3), ("last", 9), ("older", 1)):
        content = {"global_step": step, "weights": torch.ones(1000)}
        AtomicCheckpointIO().save_checkpoint(content, tmp_path / f"{name}.ckpt")
    return tmp_path


def cut_off(content: bytes) -> bytes:
    return content[:2000]


def never_written(content: bytes) -> bytes:
    """As after a power failure."""
    return bytes(512) + content[512:]


def bit_flipped(content: bytes) -> bytes:
    place = content.find(torch.ones(10).numpy().tobytes()) + 6
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize(
    "damage", [lambda content: b"", lambda content: content[:1], cut_off, never_written, bit_flipped]
)
def test_a_damaged_checkpoint_is_refused_with_the_names_of_the_whole_ones(damage, folder) -> None:
    check_whole(folder / "last.ckpt")
    for name in ("last", "older"):
        (folder / f"{name}.ckpt").write_bytes(damage((folder / f"{name}.ckpt").read_bytes()))
    (folder / "folder.ckpt").mkdir()
    (folder / "nowhere.ckpt").symlink_to(folder / "gone")
    (folder / "pickle.ckpt").write_bytes(pickle.dumps(KilledError()))
    message = r"last\.ckpt is damaged or cut off: resume from a whole checkpoint beside it, best\.ckpt$"
    for refuses in (check_whole, AtomicCheckpointIO().load_checkpoint):  # the second with ckpt_path="last"
        with pytest.raises(ValueError, match=message):
            refuses(folder / "last.ckpt")
    (folder / "best.ckpt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"last\.ckpt is damaged or cut off: start the run anew"):
        check_whole(folder / "last.ckpt")


def test_leftovers_of_killed_runs_are_removed(folder) -> None:
    """But not what another process may be writing."""
    old, new, other = (folder / name for name in (".last.ckpt.x1", ".last.ckpt.x2", ".best.ckpt.x3"))
    for path in (old, new, other):
        path.write_bytes(b"half")
    for path in (old, other):
        os.utime(path, (0, 0))
    (folder / ".last.ckpt.x4").symlink_to(folder / "moved away")  # as one that another process has just moved
    AtomicCheckpointIO().save_checkpoint({"global_step": 12}, folder / "last.ckpt")
    assert [path.exists() for path in (old, new, other)] == [False, True, True]
    assert AtomicCheckpointIO().load_checkpoint(folder / "last.ckpt") == {"global_step": 12}


def test_a_failed_write_leaves_the_checkpoint_before(folder, monkeypatch) -> None:
    def fails(*_) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(OSError, match="no space"):
        AtomicCheckpointIO().save_checkpoint({"global_step": 12}, folder / "last.ckpt")
    assert not is_damaged(folder / "last.ckpt")
    assert sorted(path.name for path in folder.iterdir()) == ["best.ckpt", "last.ckpt", "older.ckpt"]
