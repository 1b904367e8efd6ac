"""CIFAR-100: pickles, which are looked at before they are opened."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers import fake_datasets
from tmkd_lightning.data import CIFAR100DataModule, DataError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = fake_datasets.make_cifar100(tmp_path)
    fake_datasets.trust_cifar100(monkeypatch, folder)
    return folder


def module(folder: Path, **options: Any) -> CIFAR100DataModule:
    return CIFAR100DataModule(str(folder.parent), num_workers=0, batch_size=4, **options)


def test_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_datasets.trust_cifar100(
        monkeypatch, fake_datasets.make_cifar100(tmp_path, **fake_datasets.CIFAR100, black=True)
    )
    data = CIFAR100DataModule(str(tmp_path))
    assert data.num_classes == 100
    assert [len(data.samples(split)) for split in ("train", "val", "test")] == [45_000, 5_000, 10_000]
    assert len(data.official("train")) == 50_000


def test_images_are_32_pixels_and_evaluated_as_they_are(folder: Path) -> None:
    data = module(folder)
    data.setup("fit")
    data.setup("test")
    raw = torch.from_numpy(data.official("test").images).permute(0, 3, 1, 2)
    assert torch.cat([image for image, _ in data.test_dataloader()]).equal(raw)
    assert next(iter(data.train_dataloader()))[0].shape[1:] == (3, 32, 32)


@pytest.mark.parametrize(("size", "padding"), [(32, 4), (64, 8), (224, 28), (8, 1), (4, 0)])
def test_crops_in_proportion(folder: Path, size: int, padding: int) -> None:
    data = module(folder, image_size=size)
    _, crop, _ = data.default_train_transform().transforms
    assert ((crop.padding or [0])[0], list(crop.size)) == (padding, [size, size])
    data.setup("fit")
    assert next(iter(data.train_dataloader()))[0].shape[1:] == (3, size, size)


# What goes wrong


@pytest.mark.parametrize("name", ["train", "test", "meta"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "hostile"])
def test_damaged_files_are_not_unpickled(folder: Path, name: str, damage: str) -> None:
    path = folder / name
    content = path.read_bytes()
    path.unlink()
    if damage == "truncated":
        path.write_bytes(content[:-1])
    elif damage == "hostile":
        path.write_bytes(pickle.dumps(fake_datasets.Trap(folder.parent / "touched")))
    with pytest.raises(DataError, match=f"{folder} is damaged or incomplete: remove it, and unpack or load it again"):
        module(folder).prepare_data()
    assert not (folder.parent / "touched").exists()


def test_server_slow_or_down_says_where_to_put_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_datasets.serve(tmp_path) as server:
        server.status = 503
        (real,) = CIFAR100DataModule.archives
        archive = type(real)(real.name, f"{server.url}/{real.name}", real.md5, real.holds)
        monkeypatch.setattr(CIFAR100DataModule, "archives", (archive,))
        with pytest.raises(DataError, match=f"{archive.url}.*503.*put the file at {tmp_path}/new/{real.name} by other"):
            CIFAR100DataModule(str(tmp_path / "new"), download=True).prepare_data()
