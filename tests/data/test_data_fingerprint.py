"""Training images are known by their content, and by what augmentation makes of them."""

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image
from torchvision.transforms import v2

from tmkd_lightning.data import DataError, DigitsDataModule, ImageFolderDataModule
from tmkd_lightning.data.fingerprint import content_digest
from tmkd_lightning.data.image_files import ImageFiles


def identity(**options) -> dict:
    data = DigitsDataModule(**{"train_samples": 20, "image_size": 16, "augmentation_replicas": 2, **options})
    data.setup("fit")
    return data.training_fingerprint()


def test_equal_data_have_one_identity_and_others_another() -> None:
    expected = identity()
    assert identity(seed=5, batch_size=7, num_workers=2) == expected  # whatever the order and the loaders
    weaker = v2.Compose([v2.Resize((16, 16)), v2.RandomCrop(16, padding=1)])
    for options in (
        {"train_samples": 21},
        {"image_size": 17},
        {"augmentation_replicas": 3},
        {"train_transform": v2.Resize((16, 16), antialias=True)},
        {"train_transform": weaker},
    ):
        assert identity(**options) != expected, options


class Rare:
    """Turns over the darkest images, which may be none of the few that are looked at."""

    def __init__(self, darkest: float) -> None:
        self.darkest = darkest

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        image = v2.functional.resize(image, [16, 16])
        return 255 - image if image.float().mean() < self.darkest else image


def test_transforms_count_by_what_they_do_and_hold() -> None:
    """The name of a function says nothing, and its address must not: the next process has another."""

    def plus(number: int):
        return lambda image: v2.functional.resize(image, [16, 16]) + number

    one, again, other = (identity(train_transform=plus(number)) for number in (1, 1, 2))
    assert one == again != other
    one, again, other = (identity(train_transform=Rare(darkest)) for darkest in (0.0, 0.0, 1.0))
    assert one == again
    assert one["augmented"] == other["augmented"]
    assert one["transform"] != other["transform"]


class Own(DigitsDataModule):
    """Augments by a method."""

    shift = 1

    def default_train_transform(self):
        return self.augment

    def augment(self, image):
        return v2.functional.resize(image, [16, 16]) + self.shift


def own(shift: int = 1, **options) -> Own:
    data = Own(train_samples=20, augmentation_replicas=2, **options)
    data.shift = shift
    data.setup("fit")
    return data


def test_of_a_datamodule_whose_method_augments_the_loaders_do_not_count() -> None:
    first = own().training_fingerprint()
    for options in ({"num_workers": 1}, {"batch_size": 7}, {"seed": 3}, {"eval_transform": v2.Identity()}):
        assert own(**options).training_fingerprint() == first, options
    used = own()
    used.trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    used.train_dataloader(), used.val_dataloader()
    used.load_state_dict(used.state_dict())
    used.number_samples()  # for CRD
    assert used.training_fingerprint() == first
    assert own(shift=2).training_fingerprint()["transform"] != first["transform"]
    found = []  # what it was given counts, as its method may read ``self.hparams``
    for options in ({"strength": 1, "batch_size": 7}, {"strength": 1, "batch_size": 8}, {"strength": 2}):
        data = own()
        data.save_hyperparameters(options)
        found.append(data.training_fingerprint()["transform"])
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("draw", [lambda: random.random() < 0.01, lambda: np.random.rand() < 0.01])
def test_randomness_that_cannot_come_again_is_refused(draw) -> None:
    def flip(image):
        image = v2.functional.resize(image, [16, 16])
        return image.flip(2) if draw() else image

    random.seed(0)
    np.random.seed(0)
    with pytest.raises(DataError, match=r"train_transform does not give the same image twice .*draw with torch"):
        identity(train_transform=flip)


def files(root: Path, shade: int = 7) -> ImageFiles:
    root.mkdir(exist_ok=True)
    paths = [root / f"{index}.png" for index in range(3)]
    for index, path in enumerate(paths):
        Image.new("RGB", (4, 4), (shade, index, 0)).save(path)
    return ImageFiles([(path, index) for index, path in enumerate(paths)])


def test_image_files_count_by_their_bytes_order_and_labels(tmp_path: Path) -> None:
    one = files(tmp_path / "one")
    first = content_digest(one)
    assert content_digest(files(tmp_path / "two")) == first  # elsewhere, and written at another time
    others = one.select([1, 0, 2]), ImageFiles([(path, 0) for path, _ in one.files])
    assert len({first, *map(content_digest, others)}) == 3
    path = one.files[1][0]
    status = path.stat()
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # neither size nor time tell
    assert content_digest(one) != first


def test_a_folder_of_images_has_one_too(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for name in "ab":
        files(tmp_path / "train" / name)
    data = ImageFolderDataModule(str(tmp_path), image_size=8, augmentation_replicas=2, num_workers=0)
    data.setup("fit")
    assert data.training_fingerprint()["images"] == 4  # one of each class is held out
    image, _, rows = next(iter(data.train_dataloader()))
    assert image.dtype == torch.uint8
    assert sorted(rows.tolist()) == [0, 1, 2, 3]
    assert len(next(iter(data.val_dataloader()))) == 2
