"""What is written about the images of a folder."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from helpers.tiny import CLASSES, Net
from tmkd_lightning import ClassifierModule, Extractor
from tmkd_lightning.cli.main import main as tmkd
from tmkd_lightning.data import DataError, DigitsDataModule, ImageFolderDataModule
from tmkd_lightning.export import predict_folder
from tmkd_lightning.models import WideResNet

CROP = v2.Compose([v2.Resize(8), v2.CenterCrop(8), v2.PILToTensor()])


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def folder(tmp_path) -> Path:
    """Nine noisy colours, at several depths."""
    generator = np.random.default_rng(0)
    for index in range(9):
        path = tmp_path / "images" / ("sub/" * (index % 3)) / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        colour, noise = generator.integers(0, 200, 3), generator.integers(0, 50, (8, 8, 3))
        Image.fromarray((colour + noise).astype(np.uint8)).save(path)
    return tmp_path / "images"


@pytest.fixture
def module() -> ClassifierModule:
    """A classifier that does not say the same of all colours."""
    network = Net()
    with torch.no_grad():
        network.fc.weight.mul_(50)
    return ClassifierModule(network, class_names=CLASSES).eval()


def expected(module: ClassifierModule, path: Path) -> torch.Tensor:
    image = torch.from_numpy(np.asarray(Image.open(path).convert("RGB")).copy()).permute(2, 0, 1)[None]
    with torch.no_grad():
        return module(image).softmax(1)[0]


@pytest.mark.parametrize(("batch_size", "num_workers"), [(4, 0), (32, 0), (2, 2)])
def test_every_image_has_its_line(folder, module, tmp_path, batch_size, num_workers) -> None:
    output = tmp_path / "new" / "predictions.csv"
    options = {"batch_size": batch_size, "num_workers": num_workers, "top": 3, "all_classes": True}
    assert predict_folder(module, folder, output, transform=CROP, **options) == (9, [])
    found = rows(output)
    names = [f"{'sub/' * (index % 3)}{index}.png" for index in range(9)]
    assert [row["file"] for row in found] == sorted(names, key=lambda name: Path(name))
    for row in found:
        values = expected(module, folder / row["file"])
        order = values.argsort(descending=True).tolist()
        assert [row["class"], row["class_2"], row["class_3"]] == [CLASSES[label] for label in order]
        best = [float(row[column]) for column in ("probability", "probability_2", "probability_3")]
        assert best == pytest.approx([values[label].item() for label in order], rel=1e-4)
        assert [float(row[f"p({name})"]) for name in CLASSES] == pytest.approx(values.tolist(), rel=1e-4)
    assert len({row["class"] for row in found}) > 1


def test_the_best_alone_unless_more_is_asked(folder, module, tmp_path) -> None:
    predict_folder(module, folder, tmp_path / "out.csv", transform=CROP)
    assert list(rows(tmp_path / "out.csv")[0]) == ["file", "class", "probability"]


def test_the_module_is_left_as_it_is(folder, module, tmp_path) -> None:
    module.train()
    predict_folder(module, folder, tmp_path / "out.csv", transform=CROP)
    assert module.network.training
    assert module.network.bn.num_batches_tracked == 0


def test_classes_without_names_are_numbers(folder, module, tmp_path) -> None:
    predict_folder(module.extractor, folder, tmp_path / "out.csv", transform=CROP)
    by_number = [row["class"] for row in rows(tmp_path / "out.csv")]
    predict_folder(module, folder, tmp_path / "out.csv", transform=CROP)
    assert [CLASSES[int(label)] for label in by_number] == [row["class"] for row in rows(tmp_path / "out.csv")]


def test_a_transform_that_normalises(folder, module, tmp_path) -> None:
    statistics = (0.3, 0.4, 0.5), (0.2, 0.1, 0.3)
    normalising = v2.Compose([CROP, v2.ToDtype(torch.float32, scale=True), v2.Normalize(*statistics)])
    predict_folder(module, folder, tmp_path / "plain.csv", transform=CROP)
    predict_folder(module, folder, tmp_path / "out.csv", transform=normalising, normalized_with=statistics)
    for one, other in zip(rows(tmp_path / "plain.csv"), rows(tmp_path / "out.csv"), strict=True):
        assert float(one["probability"]) == pytest.approx(float(other["probability"]), rel=1e-3)
    with pytest.raises(ValueError, match=r"images must lie in \[0, 1\]"):
        predict_folder(module, folder, tmp_path / "out.csv", transform=normalising)


def test_names_of_files_that_are_no_trouble(module, tmp_path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    names = ["a, b.png", 'quo"te.png', "new\nline.png", "ünï.png", os.fsdecode(b"\xff\xfe.png"), "GREY.PNG"]
    for name in names:
        Image.new("L", (8, 8), 100).save(images / name)
    Image.new("RGB", (8, 8)).save(images / ".hidden.png")
    (images / "notes.txt").write_text("no image")
    predict_folder(module, images, tmp_path / "out.csv", transform=CROP)
    assert {row["file"] for row in rows(tmp_path / "out.csv")} == set(names)


def test_broken_images_are_left_out_and_named(folder, module, tmp_path) -> None:
    (folder / "0.png").write_bytes((folder / "0.png").read_bytes()[:60])
    (folder / "sub" / "aaa.jpg").write_text("<html>")
    count, problems = predict_folder(module, folder, tmp_path / "out.csv", transform=CROP, batch_size=1)
    assert count == 8
    assert [str(folder / name) in problem for name, problem in zip(["0.png", "sub/aaa.jpg"], problems, strict=True)]
    found = rows(tmp_path / "out.csv")
    assert len(found) == 8
    for row in found:
        assert float(row["probability"]) == pytest.approx(expected(module, folder / row["file"]).max().item(), rel=1e-4)


def test_one_image_never_costs_the_others(folder, module, tmp_path) -> None:
    """Whatever is wrong with it: its size, what it is, or what a transform makes of it."""
    Image.new("1", (1, 60_000)).save(folder / "line.png")
    (folder / "link.png").symlink_to("gone.png")
    os.mkfifo(folder / "pipe.png")
    for index, level in enumerate((11, 12, 13, 14)):
        Image.new("RGB", (8, 8), (level, 0, 0)).save(folder / f"t{index}.png")
    whole = v2.Compose([CROP, v2.ToDtype(torch.float32, scale=True)])

    def transform(image: Image.Image) -> object:
        level = image.getpixel((0, 0))[0] if image.getpixel((0, 0))[1] == 0 else 0
        if level == 11:
            raise MemoryError
        if level == 12:
            raise KeyError("crop")
        return {13: None, 14: torch.full((3, 8, 8), torch.nan)}.get(level, whole(image))

    count, problems = predict_folder(module, folder, tmp_path / "out.csv", transform=transform, batch_size=4)
    told = [
        ("line.png", "it has 1x60000 pixels, and a side may be at most 50 times the other"),
        ("link.png", "it is a link that leads nowhere"),
        ("pipe.png", "it is a pipe, a socket or a device, not a file"),
        ("t0.png", "cannot be transformed (MemoryError)"),
        ("t1.png", "cannot be transformed (KeyError: 'crop')"),
        ("t2.png", "cannot be transformed (TypeError: the transform gives a NoneType instead of a tensor)"),
        ("t3.png", "holds values that are not a number: look at what the transform makes of it"),
    ]
    assert count == 9
    assert len(problems) == len(told)
    assert all(
        problem.startswith(str(folder / name)) and cause in problem
        for problem, (name, cause) in zip(problems, told, strict=True)
    )
    for row in rows(tmp_path / "out.csv"):
        assert float(row["probability"]) == pytest.approx(expected(module, folder / row["file"]).max().item(), rel=1e-4)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "＝"])
def test_no_cell_is_a_formula(module, tmp_path, start) -> None:
    (tmp_path / "images" / "sub").mkdir(parents=True)
    for name in (f"{start}1+1.png", f"sub/{start}1.png", "1=1.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / name)
    names = [f"{start}cmd|' /C calc'!A0", f"'{start}", "'s ant"]
    options = {"transform": CROP, "class_names": names, "top": 3, "all_classes": True}
    predict_folder(module, tmp_path / "images", tmp_path / "out.csv", **options)
    found = rows(tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        cells = [cell for line in csv.reader(file) for cell in line]
    assert not [cell for cell in cells if cell.startswith(start)]
    assert {row["file"] for row in found} == {f"./{start}1+1.png", f"sub/{start}1.png", "1=1.png"}
    assert all((tmp_path / "images" / row["file"]).is_file() for row in found)  # the path is still one
    shown = {row[column] for row in found for column in ("class", "class_2", "class_3")}
    assert shown == {f"'{names[0]}", f"''{start}", "'s ant"}


def test_into_a_pipe(folder, module, tmp_path) -> None:
    predict_folder(module, folder, tmp_path / "out.csv", transform=CROP)
    reader, writer = os.pipe()
    predict_folder(module, folder, f"/dev/fd/{writer}", transform=CROP)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        assert file.read() == (tmp_path / "out.csv").read_bytes()


# What is refused: an older file stays


def refuse(module, images: Path, message: str, tmp_path: Path, error=ValueError, **options) -> None:
    (tmp_path / "out").mkdir()
    output = tmp_path / "out" / "predictions.csv"
    output.write_text("old")
    with pytest.raises(error, match=message):
        predict_folder(module, images, output, **{"transform": CROP, **options})
    assert output.read_text() == "old"
    assert os.listdir(output.parent) == ["predictions.csv"]


def test_images_that_can_none_be_read(folder, module, tmp_path) -> None:
    for path in folder.rglob("*.png"):
        path.write_bytes(b"x")
    refuse(module, folder, r"none of the 9 images in .* can be read; the first: .*0\.png", tmp_path, DataError)


def test_a_transform_that_fails_at_all(folder, module, tmp_path) -> None:
    def fails(image: Image.Image) -> None:
        raise RuntimeError("no such crop")

    message = r"none of the 9 images .*0\.png cannot be transformed \(RuntimeError: no such crop\)"
    refuse(module, folder, message, tmp_path, DataError, transform=fails)


def test_a_folder_without_images(module, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no image")
    refuse(module, tmp_path / "empty", r"empty holds no image \(\.jpg, ", tmp_path, DataError)


def test_no_folder(folder, module, tmp_path) -> None:
    refuse(module, folder / "gone", r"there is no folder .*gone: name one that holds images", tmp_path, DataError)


def test_an_image_in_place_of_a_folder(folder, module, tmp_path) -> None:
    refuse(module, folder / "0.png", r"there is no folder .*/0\.png: name one that holds images", tmp_path, DataError)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top": 0}, "top must be 1 to 3, the number of classes, got 0"),
        ({"top": 4}, "top must be 1 to 3, the number of classes, got 4"),
        ({"batch_size": 0}, "batch_size should be a positive integer"),
        ({"device": "gpu"}, "device 'gpu' cannot be used here: Expected one of cpu"),
        ({"class_names": ["a"]}, "1 class names for a network of 3 classes"),
    ],
)
def test_arguments_that_cannot_be_meant(folder, module, tmp_path, options, message) -> None:
    Image.new("RGB", (9, 9)).save(folder / "large.png")
    refuse(module, folder, message, tmp_path, **options)


def test_a_network_that_does_not_take_such_images(folder, tmp_path) -> None:
    refuse(Extractor(_Picky()), folder, "_Picky does not take images of 8x8 pixels: 32 or nothing", tmp_path)


class _Picky(Net):
    def forward(self, image):
        if image.shape[-1] != 32:
            raise AssertionError("32 or nothing")
        return super().forward(image)


def test_a_place_that_cannot_be_written(folder, module, tmp_path) -> None:
    with pytest.raises(OSError, match=r"0\.png/out\.csv cannot be written"):
        predict_folder(module, folder, folder / "0.png" / "out.csv", transform=CROP)
    with pytest.raises(OSError, match="is a folder"):
        predict_folder(module, folder, folder, transform=CROP)


# On the command line

DIGITS = """
seed_everything: 0
trainer:
  max_epochs: 3
  accelerator: cpu
  enable_progress_bar: false
  enable_model_summary: false
  logger: false
  callbacks:
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {dirpath: runs, filename: last, enable_version_counter: false}
model:
  class_path: tmkd_lightning.ClassifierModule
  init_args:
    network: {class_path: tmkd_lightning.models.WideResNet, init_args: {depth: 10, num_classes: 10}}
    optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.05}}
data:
  class_path: tmkd_lightning.data.DigitsDataModule
  init_args: {image_size: 16, train_samples: 100}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A folder with a run on digits, and test digits as 8x8 PNG files."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "run.yaml").write_text(DIGITS)
    (folder / "digits").mkdir()
    for index, (image, _) in enumerate(DigitsDataModule().samples("test")[:20]):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / "digits" / f"{index:02}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        tmkd(["fit", "--config", "run.yaml"])
    return folder


@pytest.fixture
def verb(run, tmp_path) -> list[str]:
    command = ["predict", "--checkpoint", str(run / "runs/last.ckpt"), "--images", str(run / "digits")]
    return [*command, "--output", str(tmp_path / "out.csv"), "--num_workers", "0"]


def test_images_are_prepared_as_the_run_prepared_them(run, verb, tmp_path, capsys) -> None:
    tmkd([*verb, "--top", "2"])
    printed = capsys.readouterr().out
    assert "out.csv: 20 images\n" in printed
    assert "prepared as DigitsDataModule does for validation, 16 pixels" in printed
    network = WideResNet(10, num_classes=10)
    module = ClassifierModule.load_from_checkpoint(run / "runs/last.ckpt", network=network, weights_only=True).eval()
    data = DigitsDataModule(image_size=16)
    data.setup("test")
    images, _ = next(iter(data.test_dataloader()))
    with torch.no_grad():
        values = module(images[:20]).softmax(1)
    for row, value in zip(rows(tmp_path / "out.csv"), values, strict=True):
        assert row["class"] == data.class_names[value.argmax()]
        assert float(row["probability"]) == pytest.approx(value.max().item(), rel=1e-4)


def test_another_size_means_resize_and_crop(run, verb, tmp_path, capsys) -> None:
    tmkd([*verb, "--image_size", "24"])
    assert "prepared as ImageFolderDataModule does for validation, 24 pixels" in capsys.readouterr().out
    network = WideResNet(10, num_classes=10)
    module = ClassifierModule.load_from_checkpoint(run / "runs/last.ckpt", network=network, weights_only=True).eval()
    transform = ImageFolderDataModule(".", image_size=24).eval_transform
    for row in rows(tmp_path / "out.csv"):
        with torch.no_grad():
            value = module(transform(Image.open(run / "digits" / row["file"]))[None]).softmax(1)
        assert float(row["probability"]) == pytest.approx(value.max().item(), rel=1e-4)


def changed(run: Path, tmp_path: Path, **config: object) -> Path:
    content = torch.load(run / "runs/last.ckpt", weights_only=True)
    data = content.pop("datamodule_hyper_parameters")
    if config:
        content["datamodule_hyper_parameters"] = {**data, **config}
    torch.save(content, tmp_path / "changed.ckpt")
    return tmp_path / "changed.ckpt"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "does not say how its images were prepared: pass --image_size"),
        ({"_class_path": "no_such_project.Data"}, r"no_such_project\.Data, cannot be built here: pass --image_size"),
        ({"train_samples": 1}, r"DigitsDataModule, cannot be built here: pass --image_size"),
    ],
)
def test_a_run_whose_transform_is_not_known(run, verb, tmp_path, config, message) -> None:
    verb[2] = str(changed(run, tmp_path, **config))
    with pytest.raises(ValueError, match=message):
        tmkd(verb)
    assert not (tmp_path / "out.csv").exists()
    tmkd([*verb, "--image_size", "16"])
    assert len(rows(tmp_path / "out.csv")) == 20


def test_what_is_left_out_is_said(run, verb, tmp_path, capsys) -> None:
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (8, 8)).save(images / "good.png")
    (images / "bad.png").write_bytes(b"x")
    verb[4] = str(images)
    tmkd(verb)
    printed = capsys.readouterr()
    assert "out.csv: 1 images, 1 left out that cannot be read\n" in printed.out
    assert "LEFT OUT: " in printed.err
    assert "bad.png cannot be read as an image" in printed.err


def test_all_that_is_left_out_is_named_and_steers_no_terminal(run, verb, tmp_path, capfd) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "good.png")
    for index in range(40):
        (tmp_path / "images" / f"\x1b[31m\n{index}.png").write_bytes(b"x")
    verb[4] = str(tmp_path / "images")
    tmkd([*verb[:6], "/dev/stdout", *verb[7:]])
    printed = capfd.readouterr()
    assert [line.split(",")[0] for line in printed.out.splitlines()] == ["file", "good.png"]  # and no other word
    assert "/dev/stdout: 1 images, 40 left out that cannot be read" in printed.err
    left_out = [line for line in printed.err.splitlines() if line.startswith("LEFT OUT: ")]
    assert len(left_out) == 40
    assert all(line.isprintable() for line in left_out)
    assert all(any(rf"\x1b[31m\n{index}.png cannot be read" in line for line in left_out) for index in range(40))


def test_without_a_folder_of_images_the_verb_says_so(verb, capsys) -> None:
    with pytest.raises(SystemExit):
        tmkd([*verb[:3], *verb[5:]])
    assert "images" in capsys.readouterr().err


def test_lightnings_verb_is_still_there(run, monkeypatch) -> None:
    monkeypatch.chdir(run)
    tmkd(["predict", "--config", "run.yaml", "--ckpt_path", "runs/last.ckpt"])


def test_images_of_different_sizes_and_one_that_the_network_does_not_take(folder, module, tmp_path) -> None:
    """Each is classified by itself where they do not make a batch; what fails is left out by name."""

    def transform(image: Image.Image) -> Tensor:
        return v2.PILToTensor()(image)[:1] if image.getpixel((0, 0)) == (1, 2, 3) else v2.PILToTensor()(image)

    Image.new("RGB", (5, 5), (1, 2, 3)).save(folder / "odd.png")
    count, left_out = predict_folder(module, folder, tmp_path / "a.csv", transform=transform)
    assert count == len(rows(tmp_path / "a.csv"))
    assert [one for one in left_out if "odd.png" in one and "(1, 1, 5, 5)" in one]
