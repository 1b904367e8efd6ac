"""The digits that come with scikit-learn, and what every datamodule does with its samples."""

from collections import Counter

import pytest
import torch
from sklearn.datasets import load_digits
from torch.utils.data import SequentialSampler

from tmkd_lightning.data import DataError, DigitsDataModule
from tmkd_lightning.data.sampling import EpochSampler

SPLITS = ("train", "val", "test")


def test_splits_are_stratified_and_make_up_all_scans() -> None:
    scans = {split: DigitsDataModule().samples(split) for split in SPLITS}
    sizes = {split: len(samples) for split, samples in scans.items()}
    assert sum(sizes.values()) == 1797
    assert sizes["test"] == pytest.approx(1797 / 3, abs=5)
    assert sizes["val"] == pytest.approx(1797 / 6, abs=5)
    counts = load_digits().target.tolist()
    for split, part in (("train", 1 / 2), ("val", 1 / 6), ("test", 1 / 3)):
        held = Counter(label for _, label in scans[split])
        assert all(held[digit] == pytest.approx(counts.count(digit) * part, abs=2) for digit in range(10))
    together = Counter(image.numpy().tobytes() for samples in scans.values() for image, _ in samples)
    assert together == Counter(image.numpy().tobytes() for image in original_scans())  # each in one split


def original_scans() -> torch.Tensor:
    """0..16 on 0..255, three equal channels."""
    grey = torch.tensor(load_digits().images, dtype=torch.float64)
    return (grey * 255 / 16).round().to(torch.uint8)[:, None].expand(-1, 3, 8, 8)


def test_images_and_labels_belong_together_whatever_the_seed() -> None:
    """Or numbers of different runs could not be compared."""
    digits = load_digits()
    label_of = {image.numpy().tobytes(): label for image, label in zip(original_scans(), digits.target, strict=True)}
    for split in SPLITS:
        one, other = (DigitsDataModule(seed=seed).samples(split) for seed in (0, 1))
        assert all(label_of[image.numpy().tobytes()] == label for image, label in one)
        assert all(a.equal(b) and y == z for (a, y), (b, z) in zip(one, other, strict=True))


def test_fewer_training_samples_are_drawn_evenly() -> None:
    for samples, smallest, largest in ((10, 1, 1), (100, 10, 10), (25, 2, 3)):
        data = DigitsDataModule(train_samples=samples)
        counts = Counter(label for _, label in data.samples("train")).values()
        assert (sum(counts), min(counts), max(counts), len(counts)) == (samples, smallest, largest, 10)
        assert len(data.samples("val")) == len(DigitsDataModule().samples("val"))
    assert data.class_names == ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    assert data.class_phrases == [f"handwritten digit {name}" for name in data.class_names]
    for samples in (0, 9):
        with pytest.raises(ValueError, match=f"train_samples must be at least 10, one a class, got {samples}"):
            DigitsDataModule(train_samples=samples)
    with pytest.raises(DataError, match=r"train_samples=1000, but there are \d+ training scans"):
        DigitsDataModule(train_samples=1000).setup("fit")


@pytest.mark.parametrize("image_size", [32, 16, 9])
def test_batches(image_size: int) -> None:
    data = DigitsDataModule(train_samples=40, image_size=image_size, batch_size=16)
    data.setup("fit")
    data.setup("test")
    loaders = data.train_dataloader(), data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()
    for loader in loaders:
        image, label = next(iter(loader))
        assert (image.shape, image.dtype) == ((16, 3, image_size, image_size), torch.uint8)
        assert (label.shape, label.dtype) == ((16,), torch.int64)
    images = torch.cat([image for image, _ in loaders[0]])
    assert images.max() > 200  # on the full range of uint8
    assert images.float().mean() > 30
    assert isinstance(loaders[0].sampler, EpochSampler)
    assert all(isinstance(loader.sampler, SequentialSampler) for loader in loaders[1:])


def test_shifts_in_training_are_new_in_each_epoch_and_absent_in_validation() -> None:
    data = DigitsDataModule(train_samples=20, batch_size=20, image_size=32)
    data.setup("fit")
    train, val = data.train_dataloader(), data.val_dataloader()
    first = [train.dataset[index][0] for index in range(20)]
    assert all(image.equal(train.dataset[index][0]) for index, image in enumerate(first))
    train.sampler.set_epoch(1)
    assert sum(not image.equal(train.dataset[index][0]) for index, image in enumerate(first)) > 10
    (image, _), (small, _) = val.dataset[0], data.samples("val")[0]
    assert image.equal(data.eval_transform(small))
    means = torch.nn.functional.avg_pool2d(image.float(), 4)  # enlarging keeps the scan
    assert torch.corrcoef(torch.stack([means.flatten(), small.float().flatten()]))[0, 1] > 0.95


def test_a_fit_does_not_open_the_test_split_and_transforms_may_be_one_s_own() -> None:
    class Watching(DigitsDataModule):
        opened = ()

        def samples(self, split):
            self.opened += (split,)
            return super().samples(split)

    data = Watching(train_samples=20, train_transform=lambda image: image // 2, eval_transform=lambda image: image)
    for stage in ("fit", "validate", "test", "predict", "fit"):
        data.setup(stage)
    assert data.opened == ("train", "val", "test")  # each once
    train, val = data.train_dataloader().dataset, data.val_dataloader().dataset
    assert train[3][0].equal(data.samples("train")[3][0] // 2)
    assert val[3][0].equal(data.samples("val")[3][0])


@pytest.mark.parametrize(
    ("count", "batch_size", "sizes"),
    [(21, 5, [5, 5, 5, 5]), (20, 5, [5, 5, 5, 5]), (22, 5, [5, 5, 5, 5, 2]), (33, 32, [32]), (10, 100, [10])],
)
def test_only_a_last_batch_of_one_is_dropped_in_training(count: int, batch_size: int, sizes: list[int]) -> None:
    data = DigitsDataModule(train_samples=count, batch_size=batch_size)
    data.setup("fit")
    assert [len(label) for _, label in data.train_dataloader()] == sizes
    images = len(data.samples("val"))
    data.batch_size = next(size for size in range(2, images) if images % size == 1)
    assert sum(len(label) for _, label in data.val_dataloader()) == images


def test_wrong_numbers() -> None:
    for options, message in (
        ({"batch_size": 1}, "batch_size must be a whole number, at least 2, got 1"),
        ({"num_workers": -1}, "num_workers must be a whole number, at least 0, got -1"),
        ({"image_size": 0}, "image_size must be a whole number, at least 1, got 0"),
        ({"batch_size": 2.5}, "^batch_size must be a whole number, at least 2, got 2.5"),
        ({"batch_size": "4"}, "^batch_size must be a whole number, at least 2, got '4'"),
        ({"num_workers": 1.5}, "^num_workers must be a whole number, at least 0, got 1.5"),
        ({"image_size": float("nan")}, "^image_size must be a whole number, at least 1, got nan"),
        ({"seed": 1.5}, "^seed must be a whole number, at least 0, got 1.5"),
        ({"seed": -1}, "^seed must be a whole number, at least 0, got -1"),
        ({"augmentation_replicas": -1}, "^augmentation_replicas must be a whole number, at least 0, got -1"),
        ({"augmentation_replicas": True}, "^augmentation_replicas must be a whole number, at least 0, got True"),
    ):
        with pytest.raises(ValueError, match=message):
            DigitsDataModule(**options)
