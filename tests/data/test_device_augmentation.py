"""Kornia's augmentations on the device: each image has its own seed, whatever batch, loader or cache it is in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from kornia import augmentation as kornia
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from helpers.tiny import Net, sgd, tmkd_module
from tmkd_lightning import ClassifierModule
from tmkd_lightning.callbacks import TeacherCache
from tmkd_lightning.cli.main import main
from tmkd_lightning.data import DataError, DigitsDataModule
from tmkd_lightning.data.device_augmentation import DeviceAugmentation
from tmkd_lightning.data.sampling import SeededDataset, collate
from tmkd_lightning.utils.drawn_parameters import DrawnParameters

IMAGES = 12


def darker(share: float = 0.5) -> kornia.RandomContrast:
    """Kornia multiplies by the contrast."""
    return kornia.RandomContrast((share, share), p=1.0)


def several() -> list[nn.Module]:
    """Colours, a blur and a turn, each for a part of the images."""
    return [
        kornia.RandomBrightness((0.5, 1.5), p=0.7),
        kornia.RandomGaussianBlur((3, 3), (0.1, 2.0), p=0.5),
        kornia.RandomRotation(30.0, p=0.5),
    ]


def digits(augmentations: list[nn.Module] | None, **options: Any) -> DigitsDataModule:
    options = {"train_samples": IMAGES, "batch_size": 5, "image_size": 8, **options}
    return DigitsDataModule(device_augmentations=augmentations, **options)


class Seen(Callback):
    """The images of each training step, as the module gets them, by the row or the place of each."""

    def __init__(self) -> None:
        self.images: list[dict[int, Tensor]] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.images.append({})

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        images, _, rows = batch
        self.images[-1] |= {int(row): image.clone() for row, image in zip(rows, images, strict=True)}


def epochs(fit: Any, data: DigitsDataModule, count: int = 2) -> list[dict[int, Tensor]]:
    seen = Seen()
    data.number_samples()
    module = ClassifierModule(Net(num_classes=10), optimizer=sgd)
    fit(module, datamodule=data, max_epochs=count, limit_val_batches=0, callbacks=[seen])
    return seen.images


def same(one: dict[int, Tensor], other: dict[int, Tensor]) -> bool:
    return one.keys() == other.keys() and all(image.equal(other[row]) for row, image in one.items())


def test_an_image_is_what_kornia_makes_of_it_alone(fit) -> None:
    """Each image alone, by Kornia's own calls, after the seed of its place in the epoch."""
    (found,) = epochs(fit, digits(several()), 1)
    plain = digits(None)
    plain.setup("fit")
    changed = 0
    for index, image in found.items():
        high, low = np.random.SeedSequence((0, 0, index, 1)).generate_state(2).tolist()
        raw = plain._datasets["train"].draw(0, index)[0]
        torch.manual_seed(high << 32 | low)
        parameters = [each.forward_parameters(torch.Size((1, 3, 8, 8))) for each in several()]
        expected = raw[None] / 255
        for each, drawn in zip(several(), parameters, strict=True):
            expected = each(expected, params=drawn)
        assert image.equal((expected[0] * 255).round().clamp(0, 255).to(torch.uint8))
        changed += not image.equal(raw)
    assert changed > IMAGES // 2


def test_images_are_scaled_rounded_and_clamped() -> None:
    """Half of 1, 2 and 255 is 0.5, 1 and 127.5, rounded to the even; twice is at most white."""
    image = torch.tensor([1, 2, 255], dtype=torch.uint8).view(3, 1, 1).expand(3, 4, 4)
    for share, expected in ((0.5, [0, 1, 128]), (2.0, [2, 4, 255])):
        made = DeviceAugmentation([darker(share)])
        assert made(image[None], made.draw(image))[0, :, 0, 0].tolist() == expected


def test_draws_follow_seed_epoch_and_image_alone(fit) -> None:
    """Other batches and loading processes change nothing; another epoch and another seed change most images."""
    first, second = epochs(fit, digits(several()))
    assert first.keys() == second.keys() == set(range(IMAGES))
    assert sum(first[index].equal(second[index]) for index in first) < IMAGES // 3
    for options in ({"batch_size": 4}, {"batch_size": 12, "num_workers": 2}):
        again = epochs(fit, digits(several(), **options))
        assert same(again[0], first)
        assert same(again[1], second)
    other, _ = epochs(fit, digits(several(), seed=1))
    assert not same(other, first)


def test_an_image_augmented_before_is_cropped_as_it_was_without(fit) -> None:
    """What is drawn for the device has a seed of its own: it moves no draw of the train_transform."""
    assert same(epochs(fit, digits([darker(1.0)]), 1)[0], epochs(fit, digits(None), 1)[0])


def test_replicas_come_again_for_all_seeds(fit) -> None:
    first, second, third = epochs(fit, digits(several(), augmentation_replicas=2), 3)
    assert same(third, first)
    assert first.keys() == set(range(IMAGES))
    assert second.keys() == set(range(IMAGES, 2 * IMAGES))
    assert same(epochs(fit, digits(several(), augmentation_replicas=2, seed=3), 1)[0], first)


def trained(fit, cache: TeacherCache | None, epochs: int = 4) -> tuple[list[Tensor], Seen]:
    """Weights of a student after a run with TMKD on two views, which is one that the replicas of a cache serve."""
    torch.manual_seed(0)
    teacher, student, seen = Net(16, num_classes=10), Net(num_classes=10), Seen()
    options: dict[str, Any] = {"views": ["rgb", "edge"], "fusion": "mean", "text_weight": 0.0}
    module = tmkd_module(teacher, student, optimizer=sgd, **options)
    data = digits(several(), augmentation_replicas=2)
    callbacks = [seen, *([cache] if cache else [])]
    fit(module, datamodule=data, max_epochs=epochs, limit_val_batches=0, callbacks=callbacks)
    return [value.clone() for value in module.student.state_dict().values()], seen


@pytest.mark.filterwarnings("ignore:.*teacher.*:UserWarning")
@pytest.mark.parametrize("images", [False, True])
def test_a_cache_gives_the_same_student_bit_for_bit(fit, tmp_path, images: bool) -> None:
    live, seen = trained(fit, None)
    for _ in range(2):  # filled and read, then only read
        cached, again = trained(fit, TeacherCache(str(tmp_path), dtype="float32", images=images))
        assert all(one.equal(other) for one, other in zip(live, cached, strict=True))
        assert all(same(one, other) for one, other in zip(seen.images, again.images, strict=True))


def identity(augmentations: list[nn.Module] | None) -> dict[str, Any]:
    data = digits(augmentations, augmentation_replicas=2)
    data.setup("fit")
    return data.training_fingerprint()


def test_a_cache_knows_what_the_device_does() -> None:
    used = several()
    expected = identity(used)
    for each in used:
        each(torch.rand(2, 3, 8, 8))  # Kornia keeps what it drew last
    assert identity(used) == identity(several()) == expected
    rare = [kornia.RandomInvert(p=chance) for chance in (1e-9, 2e-9)]  # of which the images looked at show nothing
    close = [kornia.RandomBrightness((0.6, upper), p=1e-9) for upper in (1.4, 1.40001)]
    both = [kornia.RandomPlanckianJitter(select_from=which, p=1e-9) for which in ([1, 2], [3])]
    others = [[each] for each in (*rare, *close, *both, darker(0.5), darker(0.6))]
    assert len({identity(each)["augmented"] for each in (None, used, *others)}) == 10


def test_batches_that_no_trainer_moves_are_augmented_too(fit) -> None:
    """`tmkd probe` reads them, in order, two epochs in a row."""
    data = digits(several())
    first, second = epochs(fit, data)
    images = torch.cat([batch[0] for batch in data.ordered_train_dataloader(augmented=2)])
    expected = [epoch[index] for epoch in (first, second) for index in range(IMAGES)]
    assert images.equal(torch.stack(expected))
    plain = torch.cat([batch[0] for batch in data.ordered_train_dataloader()])
    assert plain.equal(torch.cat([batch[0] for batch in digits(None).ordered_train_dataloader()]))


def test_validation_sees_no_augmentation(fit) -> None:
    seen: list[Tensor] = []

    class Validated(ClassifierModule):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            seen.append(batch[0])
            return super().validation_step(batch, batch_idx)

    module = Validated(Net(num_classes=10), optimizer=sgd)
    fit(module, datamodule=digits([darker()]), max_epochs=1, limit_val_batches=1, num_sanity_val_steps=0)
    plain = digits(None)
    plain.setup("fit")
    assert seen[0].equal(next(iter(plain.val_dataloader()))[0])


def test_a_modules_own_hook_is_called_as_before(fit) -> None:
    """Lightning asks the datamodule instead of the module, where both define the hook."""

    class Own(ClassifierModule):
        batches = 0

        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            self.batches += 1
            return batch

    module = Own(Net(num_classes=10), optimizer=sgd)
    with pytest.warns(UserWarning, match="You have overridden `on_after_batch_transfer` in `LightningModule`"):
        fit(module, datamodule=digits(None), max_epochs=1, limit_val_batches=0)
    assert module.batches == 3


class Whole(kornia.RandomInvert):
    """Does to an image what depends on the batch that it is in."""

    def apply_transform(self, input: Tensor, *others: Any, **options: Any) -> Tensor:
        return input - input.mean()


@pytest.mark.parametrize(
    ("augmentation", "message"),
    [
        (kornia.ColorJiggle(0.1, 0.1, 0.1, 0.1), "ColorJiggle of device_augmentations draws something for the whole"),
        (kornia.RandomMotionBlur((3, 5), 30.0, 0.5), "RandomMotionBlur of device_augmentations draws something for"),
        (
            kornia.RandomRain((5, 10), (1, 2), (1, 2)),
            "RandomRain of device_augmentations draws something for the whole",
        ),
        (Whole(p=1e-9), "Whole of device_augmentations draws something for the whole batch"),
        (kornia.RandomCrop((6, 6)), r"makes \(3, 6, 6\) of an image \(3, 8, 8\), and must keep its size: crop in"),
        (
            kornia.RandomInvert(same_on_batch=True),
            r"RandomInvert does the same to a whole batch \(same_on_batch=True\)",
        ),
        (
            kornia.Normalize(0.5, 0.5),
            r"Normalize does the same to a whole batch .*: leave that, or the augmentation, out",
        ),
        (kornia.AugmentationSequential(darker()), "got AugmentationSequential: list the parts of a container"),
        (kornia.RandomMixUpV2(), "got RandomMixUpV2: list the parts .* and give what mixes images to mix"),
        (nn.Identity(), "single augmentations of images from kornia.augmentation, got Identity"),
    ],
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_draws_for_a_batch_or_changes_the_size_is_refused_before_training(
    augmentation, message: str, seed: int
) -> None:
    torch.manual_seed(seed)  # the verdict depends on no generator
    with pytest.raises(ValueError, match=message):
        digits([augmentation]).setup("fit")


def test_images_must_be_bytes(fit) -> None:
    with pytest.raises(ValueError, match=r"needs uint8 images of train_transform, got torch\.float32"):
        epochs(fit, digits([darker()], train_transform=lambda image: image.float() / 255))


class Own(DigitsDataModule):
    """A datamodule whose hook and loaders are its own."""

    loader: str = "own"
    calls = 0

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.calls += 1
        return super().on_after_batch_transfer(batch, dataloader_idx)

    def train_dataloader(self) -> Any:
        ours = super().train_dataloader()
        return {"ours": ours, "plain": self._loader(self._datasets["val"]), "several": {"a": ours}}[self.loader]

    def val_dataloader(self) -> Any:
        return DataLoader(self._datasets["val"], batch_size=5, collate_fn=named)


def named(samples: list[tuple[Any, ...]]) -> dict[str, Tensor]:
    images, labels = collate(samples)
    return {"image": images, "label": labels}


class Either(ClassifierModule):
    """A module whose batches are pairs, or dictionaries."""

    def unpack(self, batch: Any) -> Any:
        return (
            (batch["image"], batch["label"]) if isinstance(batch, dict) and "image" in batch else super().unpack(batch)
        )


def test_a_subclass_keeps_its_hook_and_its_other_loaders(fit) -> None:
    data = Own(train_samples=IMAGES, batch_size=5, image_size=8, device_augmentations=[darker()])
    data.loader = "ours"
    fit(Either(Net(num_classes=10), optimizer=sgd), datamodule=data, max_epochs=1, limit_val_batches=2)
    assert data.calls == 3 + 2 + 2  # of an epoch, of Lightning's look at the beginning, and of validation


@pytest.mark.parametrize("loader", ["plain", "several"])
def test_training_batches_without_what_was_drawn_are_refused(fit, loader: str) -> None:
    data = Own(train_samples=IMAGES, batch_size=5, image_size=8, device_augmentations=[darker()])
    data.loader = loader

    class Inner(Either):
        def unpack(self, batch: Any) -> Any:
            return batch["a"][:2] if isinstance(batch, dict) and "a" in batch else super().unpack(batch)

    with pytest.raises(DataError, match="nothing was drawn for a training batch of Own: its train_dataloader must"):
        fit(Inner(Net(num_classes=10), optimizer=sgd), datamodule=data, limit_val_batches=0)


def test_a_loader_without_its_datamodule_is_told_what_it_lacks(fit) -> None:
    data = digits([darker()])
    data.setup("fit")
    with pytest.raises(TypeError, match="are not done yet: hand the datamodule to the trainer, not its loader"):
        fit(ClassifierModule(Net(num_classes=10), optimizer=sgd), train=data.train_dataloader())


def test_an_empty_split_is_told_as_without() -> None:
    class Empty(DigitsDataModule):
        def samples(self, split: str) -> Any:
            return []

    data = Empty(device_augmentations=[darker()])
    data.setup("fit")
    with pytest.raises(DataError, match=r"the training split holds 0 image\(s\)"):
        data.train_dataloader()


def test_the_check_leaves_the_generator_and_the_augmentation_as_they_were() -> None:
    rare = kornia.RandomInvert(p=0.25)
    torch.manual_seed(3)
    digits([rare]).setup("fit")
    assert torch.rand(1).equal(torch.rand(1, generator=torch.Generator().manual_seed(3)))
    assert rare.p == 0.25


def test_what_was_drawn_is_joined_in_the_order_of_the_images() -> None:
    half = DeviceAugmentation([kornia.RandomBrightness((0.5, 1.5), p=0.5)])
    torch.manual_seed(0)
    drawn = [half.draw(torch.zeros(3, 4, 6)) for _ in range(20)]
    (batch,) = DrawnParameters.join(drawn).parameters
    applied = [each.parameters[0]["batch_prob"].item() for each in drawn]
    assert batch["batch_prob"].tolist() == applied
    assert 3 < sum(applied) < 17
    assert batch["brightness_factor"].tolist() == [each.parameters[0]["brightness_factor"].item() for each in drawn]
    assert batch["forward_input_shape"].tolist() == [20, 3, 4, 6]


def test_rows_stand_before_what_was_drawn() -> None:
    data = SeededDataset(
        [(torch.zeros(3, 4, 4, dtype=torch.uint8), 7)] * 2, nn.Identity(), 0, 3, DeviceAugmentation([])
    )
    data.set_epoch(4)
    _, labels, rows, drawn = collate([data[0], data[1]])
    assert (labels.tolist(), rows.tolist()) == ([7, 7], [2, 3])
    assert isinstance(drawn, DrawnParameters)


def test_a_config_names_them(tmp_path, monkeypatch) -> None:
    """By filling a cache first: its run finds every row, so both have seen the same images."""
    monkeypatch.chdir(tmp_path)
    names = [{"class_path": "kornia.augmentation.RandomInvert", "init_args": {"p": 0.5}}]
    data = {"image_size": 8, "train_samples": IMAGES, "batch_size": 5, "augmentation_replicas": 2}
    network = {"class_path": "helpers.tiny.Net", "init_args": {"num_classes": 10}}
    torch.save({"state_dict": Net(num_classes=10).state_dict()}, "teacher.ckpt")
    config = {
        "trainer": {
            "accelerator": "cpu",
            "logger": False,
            "callbacks": [{"class_path": "tmkd_lightning.callbacks.TeacherCache", "init_args": {"directory": "cache"}}],
        },
        "model": {
            "class_path": "tmkd_lightning.TMKDModule",
            "init_args": {"teacher": network, "teacher_checkpoint": "teacher.ckpt", "student": network}
            | {"views": ["rgb"], "fusion": "mean", "text_weight": 0.0},
        },
        "data": {
            "class_path": "tmkd_lightning.data.DigitsDataModule",
            "init_args": {**data, "device_augmentations": names},
        },
    }
    Path("run.yaml").write_text(yaml.safe_dump(config))
    main(["cache", "fill", "--config", "run.yaml"])
    written = {path: path.stat().st_mtime_ns for path in Path("cache").glob("*/*written.npy")}
    assert all((np.load(path) != 0).all() for path in written)
    quick = ["--trainer.limit_val_batches", "0", "--trainer.enable_checkpointing", "false"]
    main(["fit", "--config", "run.yaml", "--trainer.max_epochs", "2", *quick])
    assert len(list(Path("cache").iterdir())) == 1
    assert {path: path.stat().st_mtime_ns for path in written} == written


def test_an_augmentation_that_makes_nan_of_a_black_image_is_refused() -> None:
    """As a pixel it would be a 0, and nobody would be told."""

    class Standardised(kornia.RandomInvert):
        def apply_transform(self, input: Any, params: Any, flags: Any, transform: Any = None) -> Any:
            return input / input.amax((1, 2, 3), keepdim=True)  # 0/0 of a black image, and 1 of a white one

    with pytest.raises(ValueError, match="Standardised of device_augmentations makes NaN or infinity of a pixel"):
        digits([Standardised()]).setup("fit")
