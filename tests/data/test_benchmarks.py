"""What the five benchmarks share: splits, labels, batches, and how they are loaded."""

from __future__ import annotations

import logging
import pickle
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from helpers import fake_datasets
from helpers.fake_datasets import Server, serve
from tmkd_lightning import ClassifierModule
from tmkd_lightning.data import (
    CUB200,
    RAFDB,
    BenchmarkDataModule,
    CIFAR100DataModule,
    CUB200DataModule,
    DataError,
    DTDDataModule,
    RAFDBDataModule,
    StanfordDogs,
    StanfordDogsDataModule,
)
from tmkd_lightning.data.image_files import ImageFiles

BENCHMARKS = [CUB200DataModule, RAFDBDataModule, CIFAR100DataModule, DTDDataModule, StanfordDogsDataModule]
MAKE = dict(
    zip(
        BENCHMARKS,
        [
            fake_datasets.make_cub,
            fake_datasets.make_rafdb,
            fake_datasets.make_cifar100,
            fake_datasets.make_dtd,
            fake_datasets.make_dogs,
        ],
        strict=True,
    )
)
WITH_FILES = [kind for kind in BENCHMARKS if kind is not CIFAR100DataModule]
WITH_ARCHIVES = [kind for kind in BENCHMARKS if kind is not RAFDBDataModule]
OF_TORCHVISION = {CIFAR100DataModule: torchvision.datasets.CIFAR100, DTDDataModule: torchvision.datasets.DTD}
TRAIN, TEST = 4, 2  # images a class in a fake; DTD has 2 and 2


@pytest.fixture(params=BENCHMARKS)
def kind(request: pytest.FixtureRequest) -> type[BenchmarkDataModule]:
    return request.param


@pytest.fixture
def root(kind: type[BenchmarkDataModule], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = MAKE[kind](tmp_path / "data")
    if kind is CIFAR100DataModule:
        fake_datasets.trust_cifar100(monkeypatch, folder)
    return tmp_path / "data"


def module(kind: type[BenchmarkDataModule], root: Path, **options: Any) -> BenchmarkDataModule:
    return kind(str(root), **{"batch_size": 4, "num_workers": 0, "image_size": 16, **options})


def sizes(data: BenchmarkDataModule) -> list[int]:
    return [len(data.samples(split)) for split in ("train", "val", "test")]


def images(samples: Any) -> set[Any]:
    """What tells one image from another."""
    if isinstance(samples, ImageFiles):
        return {path for path, _ in samples.files}
    return {samples[index][0].tobytes() for index in range(len(samples))}


def count(kind: type[BenchmarkDataModule]) -> tuple[int, int, int]:
    """Classes, and training and test images of each, in a fake."""
    return (7 if kind is RAFDBDataModule else 3), (2 if kind is DTDDataModule else TRAIN), TEST


# Splits


def test_held_out_is_a_part_of_every_class(kind: type[BenchmarkDataModule], root: Path) -> None:
    data = module(kind, root, val="held_out", val_fraction=0.25)
    classes, train, test = count(kind)
    assert sizes(data) == [classes * (train - 1), classes, classes * test]
    assert Counter(data.samples("val").labels) == dict.fromkeys(range(classes), 1)
    held_out, rest = images(data.samples("val")), images(data.samples("train"))
    assert held_out | rest == images(data.official("train"))
    assert not held_out & rest


def test_val_on_test_trains_on_everything_and_says_so_once(
    kind: type[BenchmarkDataModule], root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    classes, train, test = count(kind)
    data = module(kind, root, val="test")
    assert sizes(data) == [classes * train, classes * test, classes * test]
    caplog.clear()
    with caplog.at_level(logging.INFO):
        for stage in ("fit", "validate", "test", "fit"):
            data.setup(stage)
    notices = [record for record in caplog.records if "validation reads the test split" in record.message]
    assert len(notices) == 1


def test_test_images_are_not_read_for_selection(kind: type[BenchmarkDataModule], root: Path) -> None:
    data = module(kind, root)
    test = images(data.samples("test"))
    assert len(test) == count(kind)[0] * TEST
    assert not test & (images(data.samples("train")) | images(data.samples("val")))


def test_one_seed_one_split(kind: type[BenchmarkDataModule], root: Path) -> None:
    splits = [images(module(kind, root, val="held_out", val_seed=seed).samples("val")) for seed in (0, 0, 1, 2, 3)]
    assert splits[0] == splits[1]
    assert any(split != splits[0] for split in splits)


def test_official_validation_is_for_those_that_have_one(kind: type[BenchmarkDataModule], root: Path) -> None:
    if kind is DTDDataModule:
        assert module(kind, root).val == "official"
        return
    assert module(kind, root).val == "held_out"
    with pytest.raises(ValueError, match=f"val must be one of held_out, test for {kind.__name__}, got 'official'"):
        module(kind, root, val="official")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val": "train"}, "val must be one of"),
        ({"val_fraction": 0.0}, "val_fraction must be above 0"),
        ({"val_fraction": 1.0}, "val_fraction must be above 0"),
        ({"batch_size": 1}, "batch_size must be a whole number, at least 2"),
    ],
)
def test_wrong_arguments_need_no_files(
    kind: type[BenchmarkDataModule], tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        module(kind, tmp_path / "none", **options)


def test_an_unknown_split(kind: type[BenchmarkDataModule], root: Path) -> None:
    with pytest.raises(DataError, match="no split 'training': train, val and test are"):
        module(kind, root).samples("training")


# Images and labels


@pytest.mark.parametrize("image_size", [8, 16, 40])
def test_labels_belong_to_the_images(kind: type[BenchmarkDataModule], root: Path, image_size: int) -> None:
    data = module(
        kind, root, image_size=image_size, train_transform=module(kind, root, image_size=image_size).eval_transform
    )
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        for image, label in loader:
            assert (tuple(image.shape[1:]), image.dtype) == ((3, image_size, image_size), torch.uint8)
            expected = torch.tensor([fake_datasets.colour(y) for y in label.tolist()])
            assert (image.float().mean((2, 3)) - expected).abs().max() < 6  # JPEG


def test_augmented_batches(kind: type[BenchmarkDataModule], root: Path) -> None:
    data = module(kind, root)
    data.setup("fit")
    images = [image for image, _ in data.train_dataloader()]
    assert {tuple(image.shape[1:]) for image in images} == {(3, 16, 16)}
    assert {image.dtype for image in images} == {torch.uint8}


def test_names_and_phrases(kind: type[BenchmarkDataModule], root: Path) -> None:
    data = module(kind, root)
    classes, _, _ = count(kind)
    expected = {
        CUB200DataModule: ["Aa Bird", "Ab Bird", "Ac Bird"],
        StanfordDogsDataModule: ["big Aa", "Shih-Ab", "big Ac"],
        CIFAR100DataModule: ["aa thing", "ab thing", "ac thing"],
        DTDDataModule: ["aa-ed", "ab-ed", "ac-ed"],
        RAFDBDataModule: ["surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"],
    }[kind]
    phrases = {
        DTDDataModule: ["aa-ed texture", "ab-ed texture", "ac-ed texture"],
        RAFDBDataModule: [
            f"{word} face" for word in ("surprised", "fearful", "disgusted", "happy", "sad", "angry", "neutral")
        ],
    }.get(kind, expected)
    assert (data.class_names, data.class_phrases, data.num_classes) == (expected, phrases, classes)


def test_a_trainer_takes_it_from_root_to_test(kind: type[BenchmarkDataModule], root: Path, net: Any, fit: Any) -> None:
    data = module(kind, root, num_workers=0)
    model = ClassifierModule(net(num_classes=count(kind)[0]))
    trainer = fit(model, datamodule=data, max_epochs=1)
    (scores,) = trainer.test(model, datamodule=data, verbose=False)
    assert "test/top1" in scores


def test_datamodules_survive_pickling(kind: type[BenchmarkDataModule], root: Path) -> None:
    data = module(kind, root)
    data.setup("fit")
    again = pickle.loads(pickle.dumps(data))
    assert again.class_names == data.class_names


# From nowhere to a root


NAMES = {
    CUB200DataModule: [["CUB_200_2011"]],
    DTDDataModule: [["dtd"]],
    CIFAR100DataModule: [["cifar-100-python"]],
    StanfordDogsDataModule: [["train_list.mat", "test_list.mat"], ["Images"]],
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "served").mkdir()
    with serve(tmp_path / "served") as server:
        yield server


@pytest.fixture
def at_server(kind: type[BenchmarkDataModule], root: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packs the fake, serves it, and removes it."""
    folder = root / "dtd" if kind is DTDDataModule else root
    owner = {CUB200DataModule: CUB200, StanfordDogsDataModule: StanfordDogs}.get(kind, kind)
    archives = [
        fake_datasets.pack(server.folder / real.name, folder, names, server.url)
        for real, names in zip(owner.archives, NAMES[kind], strict=True)
    ]
    assert [archive.holds for archive in archives] == [real.holds for real in owner.archives]
    monkeypatch.setattr(owner, "archives", tuple(archives))
    shutil.rmtree(root)


@pytest.mark.parametrize("kind", WITH_ARCHIVES, indirect=True)
def test_download_once(
    kind: type[BenchmarkDataModule], root: Path, server: Server, at_server: None, tmp_path: Path
) -> None:
    data = module(kind, root, download=True)
    assert not root.exists()
    with pytest.raises(DataError, match="download=True"):  # only prepare_data loads: it runs on one process
        data.setup("fit")
    assert server.asked == []
    for _ in range(2):
        data.prepare_data()
        data.setup("fit")
    assert len(server.asked) == 2 * len(NAMES[kind])  # one for a redirection, and one for the file
    assert sizes(module(kind, root)) == sizes(data)
    assert sizes(data)[2] == count(kind)[0] * TEST


@pytest.mark.parametrize("kind", OF_TORCHVISION, indirect=True)
def test_our_folders_are_torchvision_s(
    kind: type[BenchmarkDataModule], root: Path, server: Server, at_server: None
) -> None:
    module(kind, root, download=True).prepare_data()
    assert len(OF_TORCHVISION[kind](root)) == count(kind)[0] * count(kind)[1]


def test_nothing_there_and_no_download(kind: type[BenchmarkDataModule], tmp_path: Path) -> None:
    data = module(kind, tmp_path / "none")
    for use in (lambda: data.prepare_data(), lambda: data.setup("fit"), lambda: data.samples("test")):
        with pytest.raises(DataError, match=str(tmp_path / "none")):
            use()
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("kind", WITH_ARCHIVES, indirect=True)
def test_server_down(kind: type[BenchmarkDataModule], root: Path, server: Server, at_server: None) -> None:
    server.status = 503
    with pytest.raises(DataError, match=f"{server.url}/.* 503: .*put the file at {root}/.* by other means"):
        module(kind, root, download=True).prepare_data()


@pytest.mark.parametrize("kind", WITH_FILES, indirect=True)
def test_a_missing_image_is_known_before_training(kind: type[BenchmarkDataModule], root: Path) -> None:
    for split in ("train", "test"):
        data = module(kind, root)
        data.prepare_data()
        path, _ = data.samples(split).files[0]
        shutil.copy(path, kept := root / "kept")
        path.unlink()
        with pytest.raises(DataError, match=f"image {path} is missing: unpack the data again"):
            data.prepare_data()
        shutil.move(kept, path)


# The real ones


@pytest.mark.parametrize("archive", CUB200.archives + StanfordDogs.archives)
def test_archives(archive: Any) -> None:
    assert len(archive.md5) == 32
    assert archive.name in archive.url


@pytest.mark.parametrize("kind", OF_TORCHVISION, indirect=True)
def test_archives_are_those_that_torchvision_knows(kind: Any) -> None:
    (archive,) = kind.archives
    cifar, dtd = torchvision.datasets.CIFAR100, torchvision.datasets.DTD
    known = {CIFAR100DataModule: (cifar.url, cifar.tgz_md5), DTDDataModule: (dtd._URL, dtd._MD5)}
    assert (archive.url, archive.md5) == known[kind]


def test_datasets_in_torchvision_s_manner(tmp_path: Path) -> None:
    fake_datasets.make_cub(tmp_path)
    dataset = CUB200(tmp_path, "test", transform=lambda image: image.size, target_transform=lambda label: -label)
    assert [dataset[index] for index in (0, 5)] == [((16, 16), 0), ((16, 16), -2)]
    assert dataset.classes == ["Aa Bird", "Ab Bird", "Ac Bird"]
    assert dataset.class_to_idx["Ab Bird"] == 1
    assert isinstance(dataset, torch.utils.data.Dataset)
    with pytest.raises(ValueError, match="split must be 'train' or 'test', got 'val'"):
        RAFDB(tmp_path, "val")


def test_what_is_held_out_is_the_same_for_all_seeds(tmp_path: Path) -> None:
    """Or a teacher of one seed would have been trained on what a student of another is validated on."""
    fake_datasets.make_cub(tmp_path, classes=3, train_per_class=10)
    one, other, changed = (
        CUB200DataModule(str(tmp_path), seed=seed, val_seed=val_seed, val_fraction=0.3)
        for seed, val_seed in ((0, 0), (1, 0), (0, 1))
    )
    assert one.samples("val").files == other.samples("val").files
    assert one.samples("val").files != changed.samples("val").files


def test_a_negative_seed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="seed must be a whole number, at least 0, got -1"):
        CUB200DataModule(str(tmp_path), seed=-1)


def test_an_image_in_two_splits_is_refused(tmp_path: Path) -> None:
    folder = fake_datasets.make_dtd(tmp_path, classes=3, per_class=2)
    lists = next(path for path in tmp_path.rglob("labels"))
    (lists / "test1.txt").write_text((lists / "train1.txt").read_text())
    with pytest.raises(DataError, match=r"is listed in train and in test"):
        DTDDataModule(str(tmp_path)).prepare_data()
    assert folder.exists()


def test_a_list_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    folder = fake_datasets.make_cub(tmp_path)
    for elsewhere in ("../../secret.jpg", "/etc/secret.jpg"):
        lines = (folder / "images.txt").read_text().splitlines()
        number = lines[0].split()[0]
        (folder / "images.txt").write_text("\n".join([f"{number} {elsewhere}", *lines[1:]]))
        with pytest.raises(DataError, match="which lies elsewhere"):
            CUB200DataModule(str(tmp_path)).prepare_data()


def test_a_root_one_level_too_deep_is_named(tmp_path: Path) -> None:
    folder = fake_datasets.make_cub(tmp_path)
    with pytest.raises(DataError, match="is one level too deep"):
        CUB200DataModule(str(folder), download=True).prepare_data()
