"""A folder for the Hugging Face hub: what others load from it is the module, and its card runs and invents nothing."""

import json
from pathlib import Path
from typing import Any, ClassVar

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from helpers.tiny import CLASSES, FIT_DIGITS, Net
from tmkd_lightning import ClassifierModule, Extractor
from tmkd_lightning.cli.main import main as tmkd
from tmkd_lightning.data import DigitsDataModule
from tmkd_lightning.data.transforms import eval_transform
from tmkd_lightning.export import UploadError, export_hub, hub, push_to_hub
from tmkd_lightning.export.card import describe_data, describe_method
from tmkd_lightning.export.preprocessing import find_preprocessing
from tmkd_lightning.export.report import compare
from tmkd_lightning.models import Pretrained

STATISTICS = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.25)}
VIT = {"img_size": 32, "depth": 1, "num_classes": 3}
OF_TIMM = {"class_path": "timm.create_model", "init_args": {"model_name": "vit_tiny_patch16_224"}, "dict_kwargs": VIT}
OF_NET = {"class_path": "helpers.tiny.Net", "init_args": {"width": 4}}


def small_vit() -> ClassifierModule:
    network = timm.create_model("vit_tiny_patch16_224", **VIT)
    nn.init.normal_(network.head.weight)
    return ClassifierModule(Extractor(network, **STATISTICS), class_names=CLASSES).eval()


def small_net() -> ClassifierModule:
    network = Net(4)
    nn.init.normal_(network.fc.weight, std=5)
    return ClassifierModule(Extractor(network, **STATISTICS), class_names=CLASSES).eval()


@pytest.fixture
def photo(tmp_path) -> Image.Image:
    """A noisy photo that is not square, also as the file that cards speak of."""
    noise = np.random.default_rng(0).integers(0, 256, (9, 12, 3)).astype(np.uint8)
    image = Image.fromarray(noise).resize((80, 60))
    image.save(tmp_path / "photo.png")
    return image


def run_card(folder: Path, photo: Image.Image, monkeypatch, capsys) -> list[str]:
    """Runs the Python of a card in its folder; returns the lines that it prints."""
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    photo.save(folder / "photo.png")
    monkeypatch.chdir(folder)
    capsys.readouterr()
    exec(compile(code.replace("photo.jpg", "photo.png"), "README.md", "exec"), {})
    return capsys.readouterr().out.splitlines()


def expected_lines(module: ClassifierModule, image: torch.Tensor) -> list[str]:
    with torch.no_grad():
        probabilities = module(image[None] / 255).softmax(1)[0]
    return [f"{CLASSES[label]}: {value:.1%}" for value, label in zip(*probabilities.topk(3), strict=True)]


def test_timm_loads_it_with_the_runs_preparation(tmp_path, photo, monkeypatch, capsys) -> None:
    """From a photo to logits by timm alone, and by the card's own code, in the folder that moved elsewhere."""
    module, prepared = small_vit(), eval_transform(32)
    export_hub(module, tmp_path / "a", image_size=32, recipe=OF_TIMM, transform=prepared)
    folder = (tmp_path / "a").rename(tmp_path / "b")
    network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network))
    with torch.no_grad():
        expected, found = module(prepared(photo)[None] / 255), network(transform(photo)[None])
    torch.testing.assert_close(found, expected, atol=0.03, rtol=0.03)  # the pixels differ by a level here and there
    assert expected.std() > 0.3
    assert network.pretrained_cfg["label_names"] == CLASSES
    lines = run_card(folder, photo, monkeypatch, capsys)
    assert [line.split(":")[0] for line in lines] == [
        line.split(":")[0] for line in expected_lines(module, prepared(photo))
    ]
    config = json.loads((folder / "config.json").read_text())
    assert config["architecture"] == "vit_tiny_patch16_224"
    assert config["model_args"] == {"img_size": 32, "depth": 1}
    assert config["pretrained_cfg"]["mean"] == [0.5, 0.4, 0.3]
    (tmp_path / "usual").mkdir()
    assert folder.stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_others_are_built_by_the_cards_code(tmp_path, photo, monkeypatch, capsys) -> None:
    """No claim of timm's; the code builds one's own class, and torchvision's networks without this library."""
    module, prepared = small_net(), DigitsDataModule(image_size=16).eval_transform
    folder = tmp_path / "net"
    config = export_hub(module, folder, image_size=16, recipe=OF_NET, transform=prepared)
    assert run_card(folder, photo, monkeypatch, capsys) == expected_lines(module, prepared(photo))
    assert "architecture" not in config
    assert "timm" not in (folder / "README.md").read_text()
    network = Pretrained("resnet18", num_classes=3, weights=None)
    config = export_hub(Extractor(network), tmp_path / "resnet", image_size=32)
    assert config["network"]["init_args"] == {"name": "resnet18", "num_classes": 3}
    assert "tmkd_lightning." not in (tmp_path / "resnet" / "README.md").read_text().split("```")[1]


def test_a_head_that_came_later(tmp_path) -> None:
    """The recipe of a run is for another number of classes than its data had."""
    network = Extractor(Net(4, num_classes=5))
    config = export_hub(network, tmp_path / "net", image_size=8, recipe=OF_NET)
    assert config["network"]["init_args"] == {"width": 4, "num_classes": 5}
    assert config["label_names"] == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("size", [8, 32, 64])
def test_the_settings_of_transforms(size) -> None:
    transforms = {
        ("center", round(size * 256 / 224), "bilinear"): eval_transform(size),
        ("center", size + 3, "bicubic"): v2.Compose(
            [v2.Resize(size + 3, v2.InterpolationMode.BICUBIC), v2.CenterCrop(size), v2.PILToTensor()]
        ),
        ("squash", size, "bilinear"): DigitsDataModule(image_size=size).eval_transform,
    }
    for (mode, resize, interpolation), transform in transforms.items():
        found = find_preprocessing(lambda image, transform=transform: transform(image) / 255, (size, size))
        assert found == (resize, mode, interpolation, None)
        assert int(size / found.crop_pct(size)) == resize  # as timm computes it
    for transform, words in {
        v2.PILToTensor(): "were not resized",
        v2.Compose([v2.Resize((size, size)), v2.RandomHorizontalFlip(1), v2.PILToTensor()]): "cannot state",
        len: "cannot state",  # not for images
    }.items():
        found = find_preprocessing(lambda image, transform=transform: transform(image) / 255, (size, size))
        assert words in found.doubt
    assert "a guess" in find_preprocessing(None, (size, size)).doubt


def test_data_that_arrive_normalised(tmp_path) -> None:
    transform = v2.Compose(
        [eval_transform(32), v2.ToDtype(torch.float32, scale=True), v2.Normalize((0.1,) * 3, (3.0,) * 3)]
    )
    options = {"image_size": 32, "recipe": OF_NET, "normalized_with": ((0.1,) * 3, (3.0,) * 3)}
    config = export_hub(small_net(), tmp_path / "net", transform=transform, **options)
    assert config["pretrained_cfg"]["crop_pct"] == pytest.approx(32 / 37)
    assert "doubt" not in (tmp_path / "net" / "README.md").read_text()


def test_a_network_of_another_size(tmp_path) -> None:
    """An Extractor that resizes states its own size, bicubic, where the data's transform changes nothing."""
    network = Extractor(Net(4), image_size=(24, 16))
    config = export_hub(network, tmp_path / "net", image_size=8, recipe=OF_NET)
    assert config["pretrained_cfg"]["input_size"] == [3, 24, 16]


def refuse(folder: Path, message: str, kind: type[Exception] = ValueError, **options: Any) -> None:
    """Asks for a folder that must not be written, nor anything beside it."""
    before = sorted(folder.iterdir())
    with pytest.raises(kind, match=message):
        export_hub(**{"network": small_net(), "output": folder / "new", "image_size": 8, "recipe": OF_NET} | options)
    assert sorted(folder.iterdir()) == before


def test_what_is_refused(tmp_path, monkeypatch) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "README.md").write_text("filled in")
    refuse(
        tmp_path, "old is there already: name another folder, or remove it", FileExistsError, output=tmp_path / "old"
    )
    assert (tmp_path / "old" / "README.md").read_text() == "filled in"
    refuse(tmp_path, "Net is none of timm's networks: pass recipe=", recipe=None)
    wide = {"class_path": "helpers.tiny.Net", "init_args": {"width": 5}}
    refuse(tmp_path, r"Net is not what helpers.tiny.Net builds \(.*conv.weight.*write it as onnx", recipe=wide)
    refuse(tmp_path, "cannot be written as a folder for the hub: .*", network=small_vit(), image_size=32, recipe=None)
    with monkeypatch.context() as patch:
        right = hub.statistics
        patch.setattr(hub, "statistics", lambda classifier: right(classifier)[::-1])
        refuse(tmp_path, "new was not written: Net as a folder for the hub gives other logits than the module")
    (tmp_path / "empty").mkdir()
    export_hub(small_net(), tmp_path / "empty", image_size=8, recipe=OF_NET)
    assert (tmp_path / "empty" / "config.json").is_file()


def test_the_card_says_what_is_known(tmp_path) -> None:
    module = small_net()
    report = {"checkpoint": "/home/me/best.ckpt"} | compare(module, image_size=8, batch_sizes=[1], accelerator="cpu")
    settings = {
        "teacher": {
            "class_path": "timm.create_model",
            "init_args": {"model_name": "resnet50", "file": "/home/me/a.pt"},
        },
        "distiller": {"class_path": "tmkd_lightning.distillers.KD", "init_args": {"temperature": 4.0}},
        "teacher_checkpoint": "/home/me/teacher.ckpt",
    }
    data = {"_class_path": "tmkd_lightning.data.ImageFolderDataModule", "root": "/home/me/photos", "image_size": 8}
    options = {"method": describe_method(settings), "data": describe_data(data), "tags": ["knowledge-distillation"]}
    export_hub(module, tmp_path / "a", image_size=8, recipe=OF_NET, report=report, repository="me/birds", **options)
    card = (tmp_path / "a" / "README.md").read_text()
    assert "- teacher: `create_model(model_name=resnet50)`\n- distiller: `KD(temperature=4.0)`" in card
    assert "Read by `ImageFolderDataModule`" in card
    assert "| parameters" in card
    assert "/home/me" not in card
    assert card.count("**To fill in:**") == 5  # data, limits, and three licences
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["tags"] == ["image-classification", "knowledge-distillation", "tmkd-lightning"]
    assert (front["library_name"], front["license"]) == ("pytorch", "unknown")
    assert "metrics" not in front  # as no accuracy was measured
    assert "# birds\n" in card
    assert 'Path(snapshot_download("me/birds"))' in card
    measured = {**report, "networks": {"network": {**report["networks"]["network"], "accuracy": {"top1": 0.5}}}}
    export_hub(module, tmp_path / "b", image_size=8, recipe=OF_NET, report=measured)
    card = (tmp_path / "b" / "README.md").read_text()
    assert yaml.safe_load(card.split("---\n")[1])["metrics"] == ["accuracy"]
    assert "50.0%" in card
    refuse(tmp_path, "a network of 1 parameters, but Net has", report={"networks": {"student": {"parameters": 1}}})
    refuse(tmp_path, "none that tmkd report wrote", report={"accuracy": 1.0})


def test_a_card_of_odd_names(tmp_path, monkeypatch) -> None:
    """What means something in YAML or Markdown is written so that it does not; no place of a file is told."""
    (tmp_path / "my net").mkdir()
    monkeypatch.chdir(tmp_path / "my net")
    names = ["*star*", "1. <b>", "näh"]
    export_hub(small_net(), ".", image_size=8, recipe=OF_NET, class_names=names, tags=["yes", "a: b"])
    card = (tmp_path / "my net" / "README.md").read_text(encoding="utf-8")
    assert yaml.safe_load(card.split("---\n")[1])["tags"] == ["image-classification", "yes", "a: b", "tmkd-lightning"]
    assert "\n# my net\n" in card
    assert "0. \\*star\\*\n1. 1\\. \\<b\\>\n2. näh\n" in card
    teacher = {"class_path": "timm.create_model", "dict_kwargs": {"pretrained_cfg_overlay": {"file": "/home/me/a.pt"}}}
    method = describe_method({"teacher": teacher, "mix": "/home/me/mix.py"})
    assert method.endswith("- teacher: `create_model(pretrained_cfg_overlay=())`")


class FakeApi:
    """The hub, which writes down what it is asked for."""

    asked: ClassVar[list[Any]] = []
    fails: Exception | None = None

    def create_repo(self, repository: str, *, private: bool, exist_ok: bool) -> str:
        if self.fails:
            raise self.fails
        self.asked.append((repository, private, exist_ok))
        return f"https://hub/{repository}"

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
        self.asked.append((repo_id, sorted(path.name for path in folder_path.iterdir())))


@pytest.fixture
def api(monkeypatch) -> type[FakeApi]:
    monkeypatch.setattr(FakeApi, "asked", [])
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeApi)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_secret")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return FakeApi


FILES = ["README.md", "config.json", "model.safetensors"]


def test_pushing(tmp_path, api, monkeypatch) -> None:
    folder = tmp_path / "net"
    export_hub(small_net(), folder, image_size=8, recipe=OF_NET)
    assert api.asked == []
    assert push_to_hub(folder, "me/net") == "https://hub/me/net"
    assert api.asked == [("me/net", True, True), ("me/net", FILES)]
    push_to_hub(folder, "me/net", private=False)
    assert api.asked[2] == ("me/net", False, True)
    monkeypatch.setattr(api, "fails", ConnectionError("no route to host"))
    with pytest.raises(UploadError, match=r"no route to host.*push it with: hf upload me/net .*net --private$"):
        push_to_hub(folder, "me/net")
    with pytest.raises(UploadError, match=r"hf upload me/net 'my net'$"):
        push_to_hub("my net", "me/net", private=False)
    for name in ("net", "a/b/c", "me/ net", "../net"):
        with pytest.raises(ValueError, match="push must be <user>/<name>, got"):
            push_to_hub(folder, name)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(UploadError, match=r"pushing needs a token .* set HF_TOKEN"):
        push_to_hub(folder, "me/net")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UploadError, match="HF_HUB_OFFLINE is set"):
        push_to_hub(folder, "me/net")


def test_the_command(tmp_path, api, monkeypatch, capsys) -> None:
    """From a run to folders, with and without a report, and to the hub."""
    monkeypatch.chdir(tmp_path)
    Path("fit.yaml").write_text(FIT_DIGITS)
    tmkd(["fit", "--config", "fit.yaml"])
    export = ["export", "--checkpoint", "run/last.ckpt", "--format", "hub", "--output"]
    tmkd([*export, "plain"])
    assert "Net for the hub, loaded back by helpers.tiny.Net" in capsys.readouterr().out
    config = json.loads(Path("plain/config.json").read_text())
    assert config["label_names"][:2] == ["zero", "one"]
    assert (config["pretrained_cfg"]["crop_mode"], config["pretrained_cfg"]["input_size"]) == ("squash", [3, 16, 16])
    assert "Not measured" in Path("plain/README.md").read_text()
    tmkd(
        ["report", "--checkpoint", "run/last.ckpt", "--output", "run/report", "--batch_sizes=[1]", "--accelerator=cpu"]
    )
    tmkd([*export, "measured", "--push", "me/digits", "--private", "false"])
    assert "  pushed   https://hub/me/digits" in capsys.readouterr().out
    assert api.asked == [("me/digits", False, True), ("me/digits", FILES)]
    accuracy = json.loads(Path("run/report.json").read_text())["networks"]["network"]["accuracy"]["top1"]
    assert f"{accuracy:.1%}" in Path("measured/README.md").read_text()
    moved = Path("run/last.ckpt").rename("run/best.ckpt")  # the same file
    tmkd(["export", "--checkpoint", str(moved), "--format", "hub", "--output", "moved"])
    assert f"{accuracy:.1%}" in Path("moved/README.md").read_text()
    other = Path("run/last.ckpt")  # of another run, under the name in the report
    torch.save(torch.load(moved, weights_only=True) | {"epoch": 7}, other)
    tmkd(["export", "--checkpoint", str(other), "--format", "hub", "--output", "other"])
    assert "Not measured" in Path("other/README.md").read_text()
    for options, message in (
        (
            ["--format", "hub", "--report", "run/report.json"],
            "a report of run/last.ckpt as it was then, and not of run/last.ckpt",
        ),
        (["--format", "hub", "--report", "fit.yaml"], "fit.yaml is no report of run/last.ckpt"),
        (["--format", "onnx", "--push", "me/digits"], "push is for the format hub, not for onnx: leave it out"),
    ):
        with pytest.raises(ValueError, match=message):
            tmkd(["export", "--checkpoint", str(other), "--output", "new.onnx", *options])
        assert not Path("new.onnx").exists()


def test_an_old_timm_is_told(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(timm, "__version__", "1.0.17")
    with pytest.raises(ValueError, match=r"timm reads it from 1\.0\.26 on, and this is 1\.0\.17: install a newer one"):
        export_hub(small_vit(), tmp_path / "a", image_size=32, recipe=OF_TIMM)
    assert not (tmp_path / "a").exists()
