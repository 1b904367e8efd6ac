"""What the five benchmarks share: splits, labels, batches, and how they are loaded."""

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

Kind = type[BenchmarkDataModule]
BENCHMARKS = [CUB200DataModule, RAFDBDataModule, CIFAR100DataModule, DTDDataModule, StanfordDogsDataModule]
NAMES = ["cub", "rafdb", "cifar100", "dtd", "dogs"]
MAKE = {kind: getattr(fake_datasets, f"make_{name}") for kind, name in zip(BENCHMARKS, NAMES, strict=True)}
WITH_FILES = [kind for kind in BENCHMARKS if kind is not CIFAR100DataModule]
WITH_ARCHIVES = [kind for kind in BENCHMARKS if kind is not RAFDBDataModule]
OF_TORCHVISION = {CIFAR100DataModule: torchvision.datasets.CIFAR100, DTDDataModule: torchvision.datasets.DTD}
TRAIN, TEST = 4, 2  # images a class in a fake; DTD has 2 and 2


@pytest.fixture(params=BENCHMARKS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param


@pytest.fixture
def root(kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = MAKE[kind](tmp_path / "data")
    if kind is CIFAR100DataModule:
        fake_datasets.trust_cifar100(monkeypatch, folder)
    return tmp_path / "data"


def module(kind: Kind, root: Path, **options: Any) -> BenchmarkDataModule:
    return kind(str(root), **{"batch_size": 4, "num_workers": 0, "image_size": 16, **options})


def sizes(data: BenchmarkDataModule) -> list[int]:
    return [len(data.samples(split)) for split in ("train", "val", "test")]


def images(samples: Any) -> set[Any]:
    """What tells one image from another."""
    if isinstance(samples, ImageFiles):
        return {path for path, _ in samples.files}
    return {samples[index][0].tobytes() for index in range(len(samples))}


def count(kind: Kind) -> tuple[int, int, int]:
    """Classes, and training and test images of each, in a fake."""
    return (7 if kind is RAFDBDataModule else 3), (2 if kind is DTDDataModule else TRAIN), TEST


REAL = {  # what the real ones hold: training and test images, and what is held out of each class
    CUB200DataModule: (fake_datasets.CUB, 5_994, 5_794, [3] * 200),  # of 29 or 30
    RAFDBDataModule: (fake_datasets.RAF_DB, 12_271, 3_068, [129, 28, 72, 477, 198, 70, 252]),
    CIFAR100DataModule: ({**fake_datasets.CIFAR100, "black": True}, 50_000, 10_000, [50] * 100),
    StanfordDogsDataModule: (fake_datasets.DOGS, 12_000, 8_580, [10] * 120),
}


@pytest.mark.parametrize("kind", REAL, indirect=True)
def test_counts(kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options, train, test, held_out = REAL[kind]
    folder = MAKE[kind](tmp_path, **({} if "black" in options else {"size": None}), **options)
    if kind is CIFAR100DataModule:
        fake_datasets.trust_cifar100(monkeypatch, folder)
    data = kind(str(tmp_path))
    assert (data.num_classes, len(data.official("train")), len(data.official("test"))) == (len(held_out), train, test)
    assert sizes(data) == [train - sum(held_out), sum(held_out), test]
    counts = Counter(data.samples("val").labels)
    assert [counts[label] for label in range(data.num_classes)] == held_out
    assert sizes(kind(str(tmp_path), val="test")) == [train, test, test]


def test_held_out_is_a_part_of_every_class(kind: Kind, root: Path) -> None:
    """And test images are in no other split, whatever is validated on."""
    data = module(kind, root, val="held_out", val_fraction=0.25)
    classes, train, test = count(kind)
    assert sizes(data) == [classes * (train - 1), classes, classes * test]
    assert Counter(data.samples("val").labels) == dict.fromkeys(range(classes), 1)
    held_out, rest = images(data.samples("val")), images(data.samples("train"))
    assert held_out | rest == images(data.official("train"))
    assert not held_out & rest
    for each in (data, module(kind, root)):
        tested = images(each.samples("test"))
        assert len(tested) == classes * test
        assert not tested & (images(each.samples("train")) | images(each.samples("val")))


def test_val_on_test_trains_on_everything_and_says_so_once(
    kind: Kind, root: Path, caplog: pytest.LogCaptureFixture
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


def test_wrong_arguments_need_no_files(kind: Kind, tmp_path: Path) -> None:
    official = kind is DTDDataModule
    assert module(kind, tmp_path).val == ("official" if official else "held_out")
    for options, message in (
        ({"val": "official"}, f"val must be one of held_out, test for {kind.__name__}, got 'official'"),
        ({"val": "train"}, "val must be one of"),
        ({"val_fraction": 0.0}, "val_fraction must be above 0"),
        ({"val_fraction": 1.0}, "val_fraction must be above 0"),
        ({"batch_size": 1}, "batch_size must be a whole number, at least 2"),
    )[official:]:
        with pytest.raises(ValueError, match=message):
            module(kind, tmp_path / "none", **options)
    data = module(kind, tmp_path / "none")
    for use in (lambda: data.prepare_data(), lambda: data.setup("fit"), lambda: data.samples("test")):
        with pytest.raises(DataError, match=str(tmp_path / "none")):
            use()
    with pytest.raises(DataError, match="no split 'training': train, val and test are"):
        data.samples("training")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("image_size", [8, 16, 40])
def test_labels_belong_to_the_images(kind: Kind, root: Path, image_size: int) -> None:
    plain = module(kind, root, image_size=image_size).eval_transform
    augmented, data = module(kind, root), module(kind, root, image_size=image_size, train_transform=plain)
    for each in (augmented, data):
        each.prepare_data()
        each.setup("fit")
        each.setup("test")
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        for image, label in loader:
            assert (tuple(image.shape[1:]), image.dtype) == ((3, image_size, image_size), torch.uint8)
            expected = torch.tensor([fake_datasets.colour(y) for y in label.tolist()])
            assert (image.float().mean((2, 3)) - expected).abs().max() < 6  # JPEG
    assert {(image.shape[1:], image.dtype) for image, _ in augmented.train_dataloader()} == {((3, 16, 16), torch.uint8)}


def test_names_and_phrases(kind: Kind, root: Path) -> None:
    data = module(kind, root)
    classes, _, _ = count(kind)
    expected = {
        CUB200DataModule: ["Aa Bird", "Ab Bird", "Ac Bird"],
        StanfordDogsDataModule: ["big Aa", "Shih-Ab", "big Ac"],
        CIFAR100DataModule: ["aa thing", "ab thing", "ac thing"],
        DTDDataModule: ["aa-ed", "ab-ed", "ac-ed"],
        RAFDBDataModule: ["surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"],
    }[kind]
    faces = ("surprised", "fearful", "disgusted", "happy", "sad", "angry", "neutral")
    textures = ("aa-ed", "ab-ed", "ac-ed")
    own = {DTDDataModule: [f"{word} texture" for word in textures], RAFDBDataModule: [f"{word} face" for word in faces]}
    phrases = own.get(kind, expected)
    assert (data.class_names, data.class_phrases, data.num_classes) == (expected, phrases, classes)


def test_a_trainer_takes_it_from_root_to_test(kind: Kind, root: Path, net: Any, fit: Any) -> None:
    data = module(kind, root)
    data.setup("fit")
    assert pickle.loads(pickle.dumps(data)).class_names == data.class_names  # as a process that is spawned wants it
    model = ClassifierModule(net(num_classes=count(kind)[0]))
    trainer = fit(model, datamodule=data, max_epochs=1)
    (scores,) = trainer.test(model, datamodule=data, verbose=False)
    assert "test/top1" in scores


PACKED = {
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
def at_server(kind: Kind, root: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packs the fake, serves it, and removes it."""
    folder = root / "dtd" if kind is DTDDataModule else root
    owner = {CUB200DataModule: CUB200, StanfordDogsDataModule: StanfordDogs}.get(kind, kind)
    archives = [
        fake_datasets.pack(server.folder / real.name, folder, names, server.url)
        for real, names in zip(owner.archives, PACKED[kind], strict=True)
    ]
    assert [archive.holds for archive in archives] == [real.holds for real in owner.archives]
    monkeypatch.setattr(owner, "archives", tuple(archives))
    shutil.rmtree(root)


@pytest.mark.parametrize("kind", WITH_ARCHIVES, indirect=True)
def test_download_once(kind: Kind, root: Path, server: Server, at_server: None) -> None:
    data = module(kind, root, download=True)
    assert not root.exists()
    with pytest.raises(DataError, match="download=True"):  # only prepare_data loads: it runs on one process
        data.setup("fit")
    assert server.asked == []
    server.status = 503
    with pytest.raises(DataError, match=f"{server.url}/.* 503: .*put the file at {root}/.* by other means"):
        data.prepare_data()
    server.status, server.asked = 200, []
    for _ in range(2):
        data.prepare_data()
        data.setup("fit")
    assert len(server.asked) == 2 * len(PACKED[kind])  # one for a redirection, and one for the file
    assert sizes(module(kind, root)) == sizes(data)
    assert sizes(data)[2] == count(kind)[0] * TEST
    if kind in OF_TORCHVISION:  # which finds our folders
        assert len(OF_TORCHVISION[kind](root)) == count(kind)[0] * count(kind)[1]


STRAY = {
    CUB200DataModule: ["images/stray.jpg", "images/001.Aa_Bird/stray.jpg", "images/001.Aa_Bird/.DS_Store", "README"],
    RAFDBDataModule: ["Image/aligned/stray.jpg"],
    DTDDataModule: ["images/aa-ed/.directory", "images/aa-ed/stray.jpg"],
    StanfordDogsDataModule: ["Images/n02085620-big_Aa/stray.jpg", "Images/n99999999-Stray/stray.jpg"],
}


@pytest.mark.parametrize("kind", WITH_FILES, indirect=True)
def test_a_missing_image_is_known_before_training_and_stray_ones_are_passed_over(kind: Kind, root: Path) -> None:
    data = module(kind, root)
    before = {split: data.samples(split).files for split in ("train", "test")}
    folder = next(path for path in (root / "CUB_200_2011", root / "basic", root / "dtd/dtd", root) if path.exists())
    for name in STRAY[kind]:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"junk")
    data.prepare_data()
    assert {split: module(kind, root).samples(split).files for split in before} == before
    for split in ("train", "test"):
        path, _ = data.samples(split).files[0]
        shutil.copy(path, kept := root / "kept")
        path.unlink()
        with pytest.raises(DataError, match=f"image {path} is missing: unpack the data again"):
            data.prepare_data()
        shutil.move(kept, path)


def test_datasets_in_torchvision_s_manner(tmp_path: Path) -> None:
    fake_datasets.make_cub(tmp_path)
    dataset = CUB200(tmp_path, "test", transform=lambda image: image.size, target_transform=lambda label: -label)
    assert [dataset[index] for index in (0, 5)] == [((16, 16), 0), ((16, 16), -2)]
    assert dataset.classes == ["Aa Bird", "Ab Bird", "Ac Bird"]
    assert dataset.class_to_idx["Ab Bird"] == 1
    assert isinstance(dataset, torch.utils.data.Dataset)
    for archive in CUB200.archives + StanfordDogs.archives:
        assert len(archive.md5) == 32
        assert archive.name in archive.url
    cifar, dtd = torchvision.datasets.CIFAR100, torchvision.datasets.DTD
    known = {CIFAR100DataModule: (cifar.url, cifar.tgz_md5), DTDDataModule: (dtd._URL, dtd._MD5)}
    assert {kind: (kind.archives[0].url, kind.archives[0].md5) for kind in known} == known


def test_what_is_held_out_is_the_same_for_all_seeds(kind: Kind, root: Path) -> None:
    """Or a teacher of one seed would have been trained on what a student of another is validated on."""
    seeds = ((0, 0), (1, 0), (0, 1), (0, 2), (0, 3))
    held_out = [
        images(module(kind, root, val="held_out", seed=seed, val_seed=val_seed).samples("val"))
        for seed, val_seed in seeds
    ]
    assert held_out[0] == held_out[1]
    assert any(split != held_out[0] for split in held_out)


OF_CIFAR = pytest.mark.parametrize("kind", [CIFAR100DataModule], indirect=True)


@OF_CIFAR
def test_images_of_32_pixels_are_evaluated_as_they_are(kind: Kind, root: Path) -> None:
    data = module(kind, root, image_size=32)
    data.setup("test")
    raw = torch.from_numpy(data.official("test").images).permute(0, 3, 1, 2)
    assert torch.cat([image for image, _ in data.test_dataloader()]).equal(raw)
    for size, padding in ((32, 4), (64, 8), (224, 28), (8, 1), (4, 0)):  # crops in proportion
        data = CIFAR100DataModule(str(root), num_workers=0, **({} if size == 32 else {"image_size": size}))
        _, crop, _ = data.default_train_transform().transforms
        assert ((crop.padding or [0])[0], list(crop.size)) == (padding, [size, size])
        data.setup("fit")
        assert next(iter(data.train_dataloader()))[0].shape[1:] == (3, size, size)


@OF_CIFAR
@pytest.mark.parametrize("name", ["train", "test", "meta"])
def test_damaged_files_are_not_unpickled(kind: Kind, root: Path, name: str) -> None:
    folder = root / "cifar-100-python"
    trap = pickle.dumps(fake_datasets.Trap(root / "touched"))
    for content in ((folder / name).read_bytes()[:-1], trap, None):
        (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
        with pytest.raises(
            DataError, match=f"{folder} is damaged or incomplete: remove it, and unpack or load it again"
        ):
            module(kind, root).prepare_data()
    assert not (root / "touched").exists()
