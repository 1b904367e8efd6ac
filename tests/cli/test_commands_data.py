"""``tmkd data check``: what it counts, and what it finds wrong."""

import re

import pytest
import torch
from PIL import Image

from helpers.fake_datasets import make_cub, make_dtd
from tmkd_lightning.cli.main import main as tmkd
from tmkd_lightning.data import CUB200DataModule, DataError, DigitsDataModule, RAFDBDataModule

CUB = ["data", "check", "--data", "tmkd_lightning.data.CUB200DataModule", "--data.root"]
FOLDER = ["data", "check", "--data", "tmkd_lightning.data.ImageFolderDataModule", "--data.root"]


def test_counts(tmp_path, capsys) -> None:
    make_cub(tmp_path / "birds", classes=3, train_per_class=[4, 5, 6], test_per_class=2)
    tmkd([*CUB, str(tmp_path / "birds"), "--per_class", "true", "--data.val_fraction", "0.25"])
    printed = capsys.readouterr().out
    assert "train: 11 images of 3 classes, 3 to 4 each" in printed
    assert "val: 4 images of 3 classes, 1 to 2 each" in printed  # a quarter of 4, 5 and 6, rounded to even
    assert "test: 6 images of 3 classes, 2 to 2 each" in printed
    assert len(re.findall(r"^ +\d+ \w+ Bird$", printed, re.MULTILINE)) == 9
    assert "All images can be read." in printed
    make_dtd(tmp_path, classes=3, per_class=2)  # with its own validation split
    tmkd(["data", "check", "--data", "tmkd_lightning.data.DTDDataModule", "--data.root", str(tmp_path)])
    assert capsys.readouterr().out.count("6 images of 3 classes, 2 to 2 each") == 3


def test_everything_wrong_is_named(tmp_path, capsys) -> None:
    with pytest.raises(SystemExit, match="1 problem"):
        tmkd([*CUB, str(tmp_path)])  # it is not there
    assert "WRONG" in capsys.readouterr().out
    folder = make_cub(tmp_path, classes=3, train_per_class=4, test_per_class=2)
    first, second, third = sorted((folder / "images").rglob("*.jpg"))[:3]
    first.write_bytes(first.read_bytes()[:100])
    second.unlink()
    third.write_text("<html>")
    with pytest.raises(SystemExit, match="problem"):
        tmkd([*CUB, str(tmp_path)])
    printed = capsys.readouterr().out
    assert all(f"{path} cannot be read" in printed for path in (first, second, third))
    assert f"{second} is missing" in printed


def test_classes_of_one_name_and_a_split_that_may_be_missing(tmp_path, capsys) -> None:
    """What else there is to see is looked at all the same."""
    for name in ("a_b", "c", "a b"):
        for index in range(2):
            (tmp_path / "train" / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8)).save(tmp_path / "train" / name / f"{index}.png")
        if name == "c":
            tmkd([*FOLDER, str(tmp_path)])
            assert f"test: none (no folder {tmp_path / 'test'}" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"^1 problem"):
        tmkd([*FOLDER, str(tmp_path)])
    printed = capsys.readouterr().out
    assert "WRONG: classes 'a b' and 'a_b' would both be called 'a b'" in printed
    assert "train: 3 images of 3 classes" in printed


def test_classes_of_data_that_are_still_to_be_loaded_or_have_one_name(tmp_path) -> None:
    """A module that takes the number from the data asks before the download."""

    class Mine(DigitsDataModule):
        class_names = property(lambda self: ["zero", "one", "one_", *"3456789"])

    assert CUB200DataModule(str(tmp_path), download=True).num_classes == 200
    assert RAFDBDataModule(str(tmp_path)).num_classes == 7
    with pytest.raises(DataError, match="download=True"):
        _ = CUB200DataModule(str(tmp_path)).num_classes
    make_cub(tmp_path, classes=3)
    assert CUB200DataModule(str(tmp_path), download=True).num_classes == 3
    with pytest.raises(DataError, match="classes 'one' and 'one_' would both be called 'one'"):
        Mine(image_size=8).setup("fit")


KINDS = ["CUB200", "RAFDB", "CIFAR100", "DTD", "StanfordDogs", "ImageFolder", "Digits", "Stream"]
OF_ALL = {"batch_size", "num_workers", "image_size", "seed", "augmentation_replicas", "device_augmentations"}
OF_ALL |= {"train_transform", "eval_transform"}
OF_ONE = {
    "DTD": {"partition"},
    "ImageFolder": {"root", "val_fraction", "test_fraction", "val_seed", "unlabelled", "classes"},
    "Digits": {"train_samples", "labelled_samples"},
    "Stream": {"root", "cache_dir", "max_cache_size", "storage_options"},
}
OF_BENCHMARKS = {"root", "val", "val_fraction", "val_seed", "download"}


@pytest.mark.parametrize("kind", KINDS)
def test_arguments_that_are_passed_on_are_listed_and_checked(kind, tmp_path, capsys) -> None:
    """Each class names its own arguments only; the parser finds those of the classes that it inherits from."""
    name = f"tmkd_lightning.data.{kind}DataModule"
    with pytest.raises(SystemExit, match=r"^0$"):
        tmkd(["fit", f"--data.help={name}"])
    listed = set(re.findall(r"--data\.(\w+) ", capsys.readouterr().out.split("Help for")[1]))
    own = OF_ONE.get(kind, set())
    assert listed == OF_ALL | own | (set() if kind in ("ImageFolder", "Digits", "Stream") else OF_BENCHMARKS)
    with pytest.raises(SystemExit, match=r"^2$"):
        tmkd(["data", "check", "--data", name, "--data.batchsize", "7"])
    assert "has no argument 'batchsize': did you mean 'batch_size'?" in capsys.readouterr().err


def test_arguments_that_are_passed_on_go_into_checkpoints(tmp_path) -> None:
    make_cub(tmp_path / "birds")
    options = {"root": tmp_path / "birds", "batch_size": 5, "image_size": 32, "num_workers": 0, "val_fraction": 0.25}
    tmkd(
        ["fit", "--model", "tmkd_lightning.ClassifierModule", "--model.network", "tmkd_lightning.models.wrn_16_2"]
        + ["--model.num_classes", "3", "--data", "tmkd_lightning.data.CUB200DataModule"]
        + [word for name, value in options.items() for word in (f"--data.{name}", str(value))]
        + ["--trainer.max_steps", "1", "--trainer.default_root_dir", str(tmp_path), "--trainer.accelerator", "cpu"]
        + ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
    )
    path = next(tmp_path.rglob("*.ckpt"))
    saved = torch.load(path, weights_only=True)["datamodule_hyper_parameters"]
    assert {name: saved[name] for name in options} == {**options, "root": str(tmp_path / "birds")}
    assert (saved["val"], saved["seed"]) == ("held_out", 0)
    data = CUB200DataModule.load_from_checkpoint(path, weights_only=True)
    assert (data.batch_size, data.image_size, data.val_fraction) == (5, 32, 0.25)
