"""What is written about the images of a folder."""

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
from tmkd_lightning.data import DigitsDataModule, ImageFolderDataModule
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


def test_without_options_the_best_alone_by_number_or_name(folder, module, tmp_path) -> None:
    module.train()
    predict_folder(module.extractor, folder, tmp_path / "out.csv", transform=CROP)
    by_number = rows(tmp_path / "out.csv")
    assert list(by_number[0]) == ["file", "class", "probability"]
    predict_folder(module, folder, tmp_path / "out.csv", transform=CROP)
    assert [CLASSES[int(row["class"])] for row in by_number] == [row["class"] for row in rows(tmp_path / "out.csv")]
    assert module.network.training  # the module is left as it is
    assert module.network.bn.num_batches_tracked == 0


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


@pytest.mark.parametrize("batch_size", [1, 4])
def test_one_image_never_costs_the_others(folder, module, tmp_path, batch_size) -> None:
    """Whatever is wrong with it: its size, what it is, or what a transform makes of it."""
    (folder / "0.png").write_bytes((folder / "0.png").read_bytes()[:60])
    (folder / "sub" / "aaa.jpg").write_text("<html>")
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

    count, problems = predict_folder(module, folder, tmp_path / "out.csv", transform=transform, batch_size=batch_size)
    told = [
        ("0.png", "cannot be read as an image"),
        ("line.png", "it has 1x60000 pixels, and a side may be at most 50 times the other"),
        ("link.png", "it is a link that leads nowhere"),
        ("pipe.png", "it is a pipe, a socket or a device, not a file"),
        ("sub/aaa.jpg", "cannot be read as an image"),
        ("t0.png", "cannot be transformed (MemoryError)"),
        ("t1.png", "cannot be transformed (KeyError: 'crop')"),
        ("t2.png", "cannot be transformed (TypeError: the transform gives a NoneType instead of a tensor)"),
        ("t3.png", "holds values that are not a number: look at what the transform makes of it"),
    ]
    assert (count, len(rows(tmp_path / "out.csv"))) == (8, 8)
    for problem, (name, cause) in zip(problems, told, strict=True):
        assert problem.startswith(str(folder / name))
        assert cause in problem
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


def fails(image: Image.Image) -> None:
    raise RuntimeError("no such crop")


class _Picky(Net):
    def forward(self, image):
        if image.shape[-1] != 32:
            raise AssertionError("32 or nothing")
        return super().forward(image)


ARGUMENTS = [
    ({"top": 0}, "top must be 1 to 3, the number of classes, got 0"),
    ({"top": 4}, "top must be 1 to 3, the number of classes, got 4"),
    ({"batch_size": 0}, "batch_size should be a positive integer"),
    ({"device": "gpu"}, "device 'gpu' cannot be used here: Expected one of cpu"),
    ({"class_names": ["a"]}, "1 class names for a network of 3 classes"),
    ({"transform": fails}, r"none of the 9 images .*0\.png cannot be transformed \(RuntimeError: no such crop\)"),
    ({"module": Extractor(_Picky())}, "_Picky does not take images of 8x8 pixels: 32 or nothing"),
    ({"images": "gone"}, "there is no folder .*gone: name one that holds images"),
    ({"images": "0.png"}, r"there is no folder .*/0\.png: name one that holds images"),
    ({"images": "../empty"}, r"empty holds no image \(\.jpg, "),
    ({"images": "../broken"}, r"none of the 2 images in .* can be read; the first: .*0\.png"),
    ({"output": "0.png/out.csv"}, r"0\.png/out\.csv cannot be written"),
    ({"output": "."}, "is a folder"),
]


@pytest.mark.parametrize(("changed", "message"), ARGUMENTS)
def test_what_is_refused_leaves_an_older_file(folder, module, tmp_path, changed, message) -> None:
    changed = dict(changed)
    for name in ("empty/notes.txt", "broken/0.png", "broken/1.png", "out/predictions.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("old")
    images, output = folder / changed.pop("images", "."), folder / changed.pop("output", "../out/predictions.csv")
    with pytest.raises((ValueError, OSError), match=message):
        predict_folder(changed.pop("module", module), images, output, **{"transform": CROP, **changed})
    assert (tmp_path / "out/predictions.csv").read_text() == "old"
    assert os.listdir(tmp_path / "out") == ["predictions.csv"]


FIT = ["--config", str(Path(__file__).parents[2] / "examples" / "digits_student.yaml")]
FIT += ["--trainer.max_epochs=3", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
LAST = "runs/digits_student/last.ckpt"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A folder with a run on digits, and test digits as 8x8 PNG files."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "digits").mkdir()
    for index, (image, _) in enumerate(DigitsDataModule().samples("test")[:20]):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / "digits" / f"{index:02}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        tmkd(["fit", *FIT])
    return folder


@pytest.fixture
def verb(run, tmp_path) -> list[str]:
    command = ["predict", "--checkpoint", str(run / LAST), "--images", str(run / "digits")]
    return [*command, "--output", str(tmp_path / "out.csv"), "--num_workers", "0"]


def test_images_are_prepared_as_the_run_prepared_them_or_resized_and_cropped(run, verb, tmp_path, capsys) -> None:
    data = DigitsDataModule(image_size=16)
    data.setup("test")
    images = [next(iter(data.test_dataloader()))[0][:20]]
    transform = ImageFolderDataModule(".", image_size=24).eval_transform
    images.append(torch.stack([transform(Image.open(path)) for path in sorted((run / "digits").iterdir())]))
    network = WideResNet(10, num_classes=10)
    module = ClassifierModule.load_from_checkpoint(run / LAST, network=network, weights_only=True).eval()
    for image, kind, options in zip(images, ("Digits", "ImageFolder"), ([], ["--image_size", "24"]), strict=True):
        tmkd([*verb, "--top", "2", *options])
        printed = capsys.readouterr().out
        assert "out.csv: 20 images\n" in printed
        assert f"prepared as {kind}DataModule does for validation, {image.shape[-1]} pixels" in printed
        with torch.no_grad():
            values = module(image).softmax(1)
        for row, value in zip(rows(tmp_path / "out.csv"), values, strict=True):
            assert row["class"] == data.class_names[value.argmax()]
            assert float(row["probability"]) == pytest.approx(value.max().item(), rel=1e-4)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "does not say how its images were prepared: pass --image_size"),
        ({"_class_path": "no_such_project.Data"}, r"no_such_project\.Data, cannot be built here: pass --image_size"),
        ({"train_samples": 1}, r"DigitsDataModule, cannot be built here: pass --image_size"),
    ],
)
def test_a_run_whose_transform_is_not_known(run, verb, tmp_path, config, message) -> None:
    content = torch.load(run / LAST, weights_only=True)
    data = content.pop("datamodule_hyper_parameters")
    torch.save(content | ({"datamodule_hyper_parameters": {**data, **config}} if config else {}), tmp_path / "a.ckpt")
    verb[2] = str(tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=message):
        tmkd(verb)
    assert not (tmp_path / "out.csv").exists()
    tmkd([*verb, "--image_size", "16"])
    assert len(rows(tmp_path / "out.csv")) == 20


def test_all_that_is_left_out_is_named_and_steers_no_terminal(verb, tmp_path, capfd) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "good.png")
    for index in range(40):
        (tmp_path / "images" / f"\x1b[31m\n{index}.png").write_bytes(b"x")
    verb[4] = str(tmp_path / "images")
    tmkd(verb)
    assert "out.csv: 1 images, 40 left out that cannot be read\n" in capfd.readouterr().out
    tmkd([*verb[:6], "/dev/stdout", *verb[7:]])
    printed = capfd.readouterr()
    assert [line.split(",")[0] for line in printed.out.splitlines()] == ["file", "good.png"]  # and no other word
    assert "/dev/stdout: 1 images, 40 left out that cannot be read" in printed.err
    left_out = [line for line in printed.err.splitlines() if line.startswith("LEFT OUT: ")]
    assert len(left_out) == 40
    assert all(line.isprintable() for line in left_out)
    assert all(any(rf"\x1b[31m\n{index}.png cannot be read" in line for line in left_out) for index in range(40))


def test_lightnings_verb_is_still_there(run, verb, capsys, monkeypatch) -> None:
    monkeypatch.chdir(run)
    tmkd(["predict", *FIT, "--ckpt_path", LAST])
    with pytest.raises(SystemExit):
        tmkd([*verb[:3], *verb[5:]])
    assert "images" in capsys.readouterr().err


def test_images_of_different_sizes_and_one_that_the_network_does_not_take(folder, module, tmp_path) -> None:
    """Each is classified by itself where they do not make a batch; what fails is left out by name."""

    def transform(image: Image.Image) -> Tensor:
        return v2.PILToTensor()(image)[:1] if image.getpixel((0, 0)) == (1, 2, 3) else v2.PILToTensor()(image)

    Image.new("RGB", (5, 5), (1, 2, 3)).save(folder / "odd.png")
    count, left_out = predict_folder(module, folder, tmp_path / "a.csv", transform=transform)
    assert count == len(rows(tmp_path / "a.csv"))
    assert [one for one in left_out if "odd.png" in one and "(1, 1, 5, 5)" in one]
