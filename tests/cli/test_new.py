"""``tmkd new``: what it asks, what it writes, and that this runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import pytest
import torch
import yaml
from PIL import Image

from helpers.doc_commands import build
from helpers.fake_datasets import colour, make_cub
from helpers.methods import METHODS
from tmkd_lightning.cli import new, new_networks, new_templates
from tmkd_lightning.cli.main import main
from tmkd_lightning.cli.new_data import suggest
from tmkd_lightning.export import report as measuring
from tmkd_lightning.modules.base import LEFT_OUT
from tmkd_lightning.text import write_embeddings
from tmkd_lightning.text.prompts import TEMPLATES, prompts_of
from tmkd_lightning.utils.files import atomic_write

SMALL = ["--teacher", "wrn_16_2", "--student", "wrn_16_2", "--image_size", "16"]
DIGITS = ["new", "--data", "digits", *SMALL]
PHOTOS = ["new", "--data", "photos", *SMALL]
CLASSES = ["cat", "crow", "dog"]
SHORT = """\
trainer:
  max_epochs: 1
  limit_train_batches: 2
  limit_val_batches: 2
  limit_test_batches: 2
  accelerator: cpu
  enable_progress_bar: false
  enable_model_summary: false
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def photos(here) -> Path:
    """Twelve photos of each of three classes, which lie in the folder itself."""
    return draw(here / "photos", 12)


@pytest.fixture
def untried(monkeypatch) -> None:
    """Networks are not run."""
    monkeypatch.setattr(new_networks, "try_networks", lambda *args, **options: args[5])


def draw(root: Path, count: int, side: int = 40, classes: list[str] = CLASSES) -> Path:
    for label, name in enumerate(classes):
        for index in range(count):
            path = root / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (side + index, side), colour(label)).save(path)
    return root


def config(name: str, folder: str = ".") -> dict[str, Any]:
    return yaml.safe_load(Path(folder, f"{name}.yaml").read_text())


def arguments(name: str, part: str = "model") -> dict[str, Any]:
    return config(name)[part]["init_args"]


@pytest.fixture
def terminal(monkeypatch) -> Callable[[list[str]], list[str]]:
    """Answers questions as from a terminal; gives the list to which each question is added."""

    def answering(answers: list[str]) -> list[str]:
        asked, left = [], iter(answers)

        def answer(question: str) -> str:
            asked.append(question)
            try:
                return next(left)
            except StopIteration:
                raise EOFError from None

        for stream in (sys.stdin, sys.stdout):
            monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
        monkeypatch.setattr("builtins.input", answer)
        return asked

    return answering


# It runs


def test_three_commands_after_it_train_report_and_export_a_student(here, photos, monkeypatch, capsys) -> None:
    """As they are printed, but for the size of the run."""
    monkeypatch.setattr(measuring, "_SECONDS", 0.0)
    output = "student.onnx" if find_spec("onnxscript") else "student.pt2"
    main(["new", "birds", *PHOTOS[1:], "--epochs", "7", "--accelerator", "cpu", "--method", "tmkd+rkd", "--texts=none"])
    printed = capsys.readouterr().out
    assert "photos: 36 images of 3 classes" in printed
    assert "train  30 images, 10 to 10 of a class" in printed  # of 12, 1 for testing, of 11, 1 for validation
    assert "Wrote teacher.yaml and student.yaml in birds." in printed
    commands = [line.split() for line in printed.splitlines() if line.startswith("  tmkd ")]
    assert "\n  cd birds\n" in printed
    assert [command[1:] for command in commands] == [
        ["fit", "--config", "teacher.yaml"],
        ["fit", "--config", "student.yaml"],
        ["report", "--checkpoint", "runs/student/best.ckpt", "--export", output],
    ]
    monkeypatch.chdir("birds")
    Path("short.yaml").write_text(SHORT + "data:\n  init_args: {num_workers: 0}\n")
    for command in commands[:2]:
        main([*command[1:], "--config", "short.yaml"])
    main([*commands[2][1:-1], "student.safetensors", "--batch_sizes", "[1]", "--accelerator", "cpu"])
    printed = capsys.readouterr().out
    assert "accuracy: on the plain images of the whole test split of ImageFolderDataModule, 3 images" in printed
    assert "not measured" not in printed
    assert "student.safetensors: WideResNet as state_dict, checked against the module" in printed
    assert [Path(name).is_file() for name in ("report.md", "report.json", "student.safetensors")] == [True] * 3


def test_a_teacher_that_is_trained_already_is_taken_as_it_is(here, capsys) -> None:
    """The file of a run names its network; the whole goes from there to a student."""
    main([*DIGITS, "--epochs", "1"])
    Path("short.yaml").write_text(SHORT)
    main(["fit", "--config", "teacher.yaml", "--config", "short.yaml"])
    Path("runs/teacher/best.ckpt").rename("teacher.ckpt")
    Path("teacher.yaml").unlink()
    main([*DIGITS, "--teacher", "teacher.ckpt", "--overwrite"])
    assert "needs no training, so there is no teacher.yaml" in capsys.readouterr().out
    assert not Path("teacher.yaml").exists()
    assert arguments("student")["teacher_checkpoint"] == "teacher.ckpt"
    assert arguments("student")["teacher"]["class_path"] == "tmkd_lightning.models.wrn_16_2"
    main(["fit", "--config", "student.yaml", "--config", "short.yaml"])
    assert Path(new_templates.CHECKPOINT).is_file()
    weights = torch.load("teacher.ckpt", weights_only=True)["state_dict"]
    torch.save({name.removeprefix("network."): value for name, value in weights.items()}, "plain.pt")
    with pytest.raises(ValueError, match=r"plain\.pt does not say which network it holds: name that with --teacher"):
        main([*DIGITS, "--teacher", "plain.pt", "--overwrite"])
    main([*DIGITS, "--teacher_checkpoint", "plain.pt", "--overwrite"])
    assert arguments("student")["teacher_checkpoint"] == "plain.pt"


# What it writes


def test_the_files_say_what_was_chosen(here, photos) -> None:
    main([*PHOTOS, "--method", "KD", "--epochs", "9", "--accelerator", "cpu"])
    teacher, student = config("teacher"), config("student")
    assert teacher["data"] == student["data"]
    data = {"root": "photos", "test_fraction": 0.1, "image_size": 16, "batch_size": 8, "num_workers": 2}
    assert teacher["data"]["init_args"] | {"num_workers": 2} == data
    assert [part["trainer"]["max_epochs"] for part in (teacher, student)] == [9, 9]
    assert teacher["model"]["init_args"] == {
        "num_classes": "data",
        "network": {"class_path": "tmkd_lightning.models.wrn_16_2"},
        "optimizer": {
            "class_path": "torch.optim.SGD",
            "init_args": {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.0005},
        },
    }
    chosen = {name: value for name, value in student["model"]["init_args"].items() if name != "optimizer"}
    assert chosen == {
        "num_classes": "data",
        "teacher": {"class_path": "tmkd_lightning.models.wrn_16_2"},
        "teacher_checkpoint": "runs/teacher/best.ckpt",
        "student": {"class_path": "tmkd_lightning.models.wrn_16_2"},
        "distiller": "tmkd_lightning.distillers.KD",
        **dict.fromkeys(["feature_weight", "logit_weight"], 0),  # KD alone
    }
    best = teacher["trainer"]["callbacks"][0]["init_args"]
    assert f"{best['dirpath']}/{best['filename']}.ckpt" == chosen["teacher_checkpoint"]
    assert "PromptEmbeddings" not in Path("student.yaml").read_text()
    for name in ("teacher", "student"):
        lines = Path(f"{name}.yaml").read_text().splitlines()
        assert all(line.strip() and "$" not in line for line in lines)
        for setting in ("max_epochs", "accelerator", "image_size", "batch_size", "num_workers", "root"):
            assert any(f"{setting}: " in line and "  # " in line for line in lines), setting


@pytest.mark.parametrize("method", ["tmkd", "TMKD+sdd"])
def test_texts_of_tmkd(here, photos, method, untried) -> None:
    prompts = [prompt for template in TEMPLATES.values() for prompt in prompts_of(template, CLASSES)]
    write_embeddings("texts.npz", prompts, torch.eye(len(prompts)), "by hand")
    weak = {"feature_weight": 1.0, "feature_temperature": 4.0}
    expected = {
        "clip": ({**weak, "text_weight": 0.8}, "tmkd_lightning.callbacks.PromptEmbeddings"),
        "texts.npz": (
            {**weak, "text_dim": len(prompts), "text_weight": 0.8},
            "tmkd_lightning.callbacks.PromptEmbeddings",
        ),
        "none": ({**weak, "fusion": "mean", "text_weight": 0}, "lightning.pytorch.callbacks.ModelCheckpoint"),
    }
    for texts, (settings, last) in expected.items():
        main([*PHOTOS, "--method", method, "--texts", texts, "--overwrite"])
        found = {name: arguments("student").get(name) for name in (*weak, "text_dim", "fusion", "text_weight")}
        assert {name: value for name, value in found.items() if value is not None} == settings
        assert config("student")["trainer"]["callbacks"][-1]["class_path"] == last
        assert arguments("student")["views"] == arguments("teacher")["views"] == list(TEMPLATES)
        module = build("student.yaml").model
        assert [type(part).__name__ for part in module.distiller.parts] == ["SDD"] * ("+" in method) + [
            *["KD"] * ("+" not in method),
            "FeatureKL",
        ]
    main([*PHOTOS, "--method", method, "--teacher", "clip", "--overwrite"])
    assert (arguments("student")["feature_weight"], arguments("student")["teacher_checkpoint"]) == (0, None)
    assert arguments("student")["teacher"]["class_path"] == "tmkd_lightning.models.ZeroShotCLIP"


def test_networks_of_others(here, photos, untried) -> None:
    """With weights where there are some; the student's config leaves the teacher's to its checkpoint."""
    words = [*PHOTOS, "--teacher", "resnet18d", "--student", "resnet18", "--overwrite"]
    for pretrained in (True, False):
        main([*words, "--pretrained", str(pretrained).lower()])
        network = {"class_path": "timm.create_model", "dict_kwargs": {"num_classes": 3}}
        unread = {**network, "init_args": {"model_name": "resnet18d"}}
        read = {**network, "init_args": {"model_name": "resnet18d", "pretrained": True}}
        assert arguments("teacher")["network"] == (read if pretrained else unread)
        assert arguments("student")["teacher"] == unread
        weights = {} if pretrained else {"weights": None}
        assert arguments("student")["student"]["init_args"] == {"name": "resnet18", **weights}
        assert arguments("student")["optimizer"]["init_args"]["lr"] == (0.01 if pretrained else 0.05)


def test_a_benchmark_that_is_not_here_yet(here, capsys) -> None:
    main(["new", "--data", "cub200", *SMALL])
    assert "cub200: 200 classes; not in data/cub200 yet, so the first run loads them" in capsys.readouterr().out
    data = config("teacher")["data"]
    assert data["class_path"] == "tmkd_lightning.data.CUB200DataModule"
    assert (data["init_args"]["root"], data["init_args"]["download"]) == ("data/cub200", True)
    make_cub(here / "birds", train_per_class=[4, 5, 6])
    main(["new", "--data", "cub200", "--root", "birds", *SMALL, "--overwrite"])
    assert "cub200: 21 images of 3 classes" in capsys.readouterr().out
    assert arguments("student", "data")["root"] == "birds"


def test_every_method_has_a_name() -> None:
    assert {new_networks.find_method(name.lower()).config for name in new_networks.methods() if name != "SDD"} == {
        f"tmkd_lightning.distillers.{name}" for name in new_networks.methods() if name != "SDD"
    }
    assert len(new_networks.methods()) == len(METHODS) + 1  # CRD
    assert str(new_networks.find_method("tmkd+SP")) == "SP with TMKD"
    network = new_networks.find_network("wrn_16_2", 3, pretrained=False)
    for name in new_networks.methods():
        method = new_networks.find_method(name)
        settings = new_templates.module_settings(method, network, new_templates.Texts(None))
        assert new_networks.try_networks(network, network, method, settings, 3, 16) == 16


@pytest.mark.parametrize(
    ("images", "side", "fast", "sizes"),
    [
        (5394, 375, True, (224, 64, 36)),  # 85 steps an epoch, 3000 / 85
        (50_000, 32, True, (32, 64, 10)),
        (899, 8, False, (32, 64, 30)),
        (5394, 375, False, (64, 64, 12)),
        (200, 100, True, (64, 16, 100)),  # 25 in an eighth: 16
        (3, 64, False, (64, 8, 30)),
    ],
)
def test_suggestions(images, side, fast, sizes) -> None:
    assert suggest(images, side, fast) == sizes


def test_the_size_that_a_network_was_built_for_is_suggested(here, photos) -> None:
    words = ["new", "--data", "photos", "--teacher", "vit_tiny_patch16_224", "--student", "resnet18"]
    main([*words, "--pretrained", "false"])
    assert arguments("student", "data")["image_size"] == 224
    with pytest.raises(ValueError, match="224"):
        main([*words, "--pretrained", "false", "--image_size", "32", "--overwrite"])


# What it asks


def test_on_a_terminal_it_asks_for_what_is_missing(here, photos, terminal, capsys) -> None:
    """Enter takes the default; what is wrong is said, and asked for again."""
    answers = ["photo", "", "RKDD", "rkd", "resnet181", "wrn_16_2", "wrn_16_2", "16.5", "16", ""]
    asked = terminal(answers)
    main(["new", "--accelerator", "cpu"])
    questions = ["Data", "Method", "Teacher", "Student", "Image size", "Epochs"]
    order = [next(name for name in questions if question.startswith(name)) for question in asked]
    assert order == [name for name in questions for _ in range(1 if name in ("Student", "Epochs") else 2)]
    assert [question.rpartition(" [")[2] for question in asked[::3]] == ["photos]: ", "KD]: ", "wrn_16_2]: ", "30]: "]
    printed = capsys.readouterr().out
    for said in (
        "there is no folder photo: did you mean 'photos'?",
        "there is no method 'RKDD': did you mean 'RKD'?",
        "neither torchvision nor timm has a network 'resnet181': did you mean 'resnet18'?",
        "image_size must be a whole number, at least 1, got '16.5'",
    ):
        assert f"  {said}" in printed
    assert "by default" not in printed
    assert arguments("student")["distiller"] == "tmkd_lightning.distillers.RKD"
    assert (arguments("student", "data")["image_size"], config("student")["trainer"]["max_epochs"]) == (16, 30)


def test_without_a_terminal_it_takes_defaults_and_says_them(here, untried, capsys) -> None:
    main(["new"])
    printed = capsys.readouterr().out
    said = ["data: digits", "accelerator: auto", "method: KD", "teacher: wrn_40_2", "student: wrn_16_2", "epochs: "]
    assert [line for line in said if f"{line}" not in printed] == []
    assert printed.count("by default (--") == 7
    assert arguments("student", "data")["image_size"] == 32


def test_what_is_broken_off_writes_nothing(here, terminal) -> None:
    terminal(["digits"])
    with pytest.raises(SystemExit, match=r"^\nNothing was written\."):
        main(["new"])
    assert list(here.iterdir()) == []


def test_both_files_or_none(here, untried, monkeypatch) -> None:
    @contextmanager
    def full(path: Path) -> Iterator[IO[bytes]]:
        with atomic_write(path) as file:
            yield file
            if path.name == "student.yaml":  # which is opened first, and so closed last
                raise OSError("the disk is full")

    monkeypatch.setattr(new, "atomic_write", full)
    Path("student.yaml").write_text("mine")
    with pytest.raises(OSError, match="disk is full"):
        main([*DIGITS, "--overwrite"])
    assert Path("student.yaml").read_text() == "mine"


# What it refuses


def one_class(here: Path) -> None:
    draw(here / "photos", 3, classes=["cat"])


def one_image(here: Path) -> None:
    draw(here / "photos", 3)
    draw(here / "photos", 1, classes=["gull"])


def broken(here: Path) -> None:
    for path in list(draw(here / "photos", 11).rglob("1*.png")):
        path.write_bytes(path.read_bytes()[:50])


def mixed_up(here: Path) -> None:
    draw(here, 1, classes=["photos"])


def twelve(here: Path) -> None:
    draw(here / "photos", 12)


def with_config(here: Path) -> None:
    twelve(here)
    Path("student.yaml").write_text("mine")


MISTAKES = {
    "no folder": (twelve, "--data photso", "there is no folder photso: did you mean 'photos'?"),
    "no folder and none like it": (twelve, "--data x", "there is no folder x; the benchmarks are cub200, rafdb,"),
    "one class": (one_class, "", "photos holds one class, 'cat', and telling apart takes two"),
    "no classes": (mixed_up, "", "photos has no folders: put the images (.jpg, "),
    "one image": (one_image, "", "class 'gull' has one image: it cannot be split"),
    "broken images": (broken, "", "6 image(s) of photos cannot be read, which would end a run: replace or remove"),
    "the classes' own folder": (twelve, "--folder photos", "photos holds the classes, and photos for the configs"),
    "a config is there": (with_config, "", "student.yaml is there: pass --overwrite to replace it"),
    "a network": (twelve, "--teacher resnet500", "has a network 'resnet500': did you mean 'resnet50'?"),
    "a student": (twelve, "--student clip", "clip cannot be a student: name a network of torchvision or timm"),
    "a checkpoint": (twelve, "--teacher gone.ckpt", "no checkpoint at gone.ckpt"),
    "a method": (twelve, "--method tmkd+DISD", "there is no method 'tmkd+DISD': did you mean 'DIST'?"),
    "a method after another": (twelve, "--method KD+RKD", "there is no method 'KD+RKD'"),
    "texts that nothing reads": (twelve, "--texts clip", "texts are read by TMKD only: leave --texts out"),
    "no file of texts": (twelve, "--method tmkd --texts gone.npz", "no file of text embeddings at gone.npz"),
    "a device": (twelve, "--accelerator gpuu", "there is no accelerator 'gpuu': did you mean 'gpu'?"),
    "a size": (twelve, "--image_size 0", "image_size must be a whole number, at least 1, got 0"),
    "a root of no benchmark": (twelve, "--root photos", "root is for the benchmarks cub200, rafdb"),
    "data on request": (twelve, "--data rafdb", "RAF-DB"),
    "a method and its teacher": (twelve, "--method SP --teacher test_vit --image_size 160", "SP reads feature_map"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(here, monkeypatch, capsys, name) -> None:
    """A few lines and status 2, as of every verb; nothing is written."""
    prepare, options, said = MISTAKES[name]
    prepare(here)
    before = {path: path.read_bytes() for path in here.rglob("*.yaml")}
    words = [*PHOTOS, *options.split()]
    monkeypatch.setattr(sys, "argv", ["tmkd", *words])
    with pytest.raises(SystemExit, match=r"^2$"):
        main()
    lines = capsys.readouterr().err.splitlines()
    lines = lines[next(index for index, line in enumerate(lines) if " error: " in line) :]
    assert lines[0].startswith("tmkd new: error: ")
    assert said in lines[0]
    assert len(lines) <= 6
    assert {path: path.read_bytes() for path in here.rglob("*.yaml")} == before


def test_classes_of_few_images_are_spoken_of(here, untried, capsys) -> None:
    draw(here / "photos", 12)
    draw(here / "photos", 4, classes=["gull"])
    main(PHOTOS)
    printed = capsys.readouterr().out
    assert "NOTE: 1 of 4 classes have fewer than 10 images, of which one is held out for validation" in printed
    assert ": gull (4)" in printed
    assert "NOTE: there are no images for testing: add photos/test/<class>/" in printed
    assert "test_fraction" not in arguments("teacher", "data")
    (here / "photos").rename(here / "train")
    draw(here / "test", 2)
    draw(here / "val", 2)
    main(["new", "project", "--data", ".", *SMALL])
    assert "NOTE" not in capsys.readouterr().out
    assert config("teacher", "project")["data"]["init_args"]["root"] == str(here)


def test_a_folder_called_by_a_number(here, untried) -> None:
    """YAML as `tmkd fit` reads it knows more numbers than YAML as Python writes it."""
    draw(here / "1e3", 12)
    main(["new", "--data", "1e3", *SMALL])
    assert "    root: '1e3'  #" in Path("teacher.yaml").read_text()


@pytest.mark.parametrize(("held_out", "told"), [(0.0, True), (0.1, False)])
def test_a_teacher_that_may_have_seen_the_test_images(here, photos, untried, capsys, held_out, told) -> None:
    network = {"class_path": "tmkd_lightning.models.wrn_16_2", "init_args": {"num_classes": 3}}
    content = {LEFT_OUT: [], "state_dict": {"network.x": torch.zeros(1)}, "hyper_parameters": {"network": network}}
    torch.save(content | {"datamodule_hyper_parameters": {"test_fraction": held_out, "val_seed": 0}}, "teacher.ckpt")
    main(["new", "--data", "photos", "--student", "wrn_16_2", "--image_size", "16", "--teacher", "teacher.ckpt"])
    printed = capsys.readouterr().out
    assert ("NOTE: teacher.ckpt may have been trained on the images that are held out here" in printed) == told
