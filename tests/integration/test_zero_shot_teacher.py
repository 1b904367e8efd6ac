"""A zero-shot CLIP teaches without labels, from the class names of the data; and teachers' files come from servers."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from torch.utils.data import DataLoader

from helpers.fake_datasets import serve
from helpers.tiny import CLASSES, Net, make_images, sgd, tmkd_module
from helpers.tiny_clip import tiny_clip, write_clip
from tmkd_lightning import Extractor, TMKDModule
from tmkd_lightning.callbacks import TeacherCache
from tmkd_lightning.cli.main import main
from tmkd_lightning.data import DigitsDataModule
from tmkd_lightning.distillers import KD
from tmkd_lightning.models import ZeroShotCLIP
from tmkd_lightning.text import OpenCLIPTextEncoder

EXAMPLES = Path(__file__).parents[2] / "examples"
ALONE = {"views": ["rgb"], "feature_weight": 0, "text_weight": 0, "optimizer": sgd}
DIGITS = {"batch_size": 4, "train_samples": 20}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def cache(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared))
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(write_clip(tmp_path / "clip"))


def rows(folder: str, names: list[str]) -> torch.Tensor:
    texts = OpenCLIPTextEncoder(pretrained=folder).encode([f"a photo of a {name}." for name in names])
    return tiny_clip().logit_scale.exp() * texts


@pytest.mark.parametrize("fusion", ["mean", "text"])
def test_no_label_is_needed(fit, prompts, folder: str, fusion: str) -> None:
    """The target is the mean of what CLIP says of each view, and its answer stands in for the label."""
    unlabelled = [(image, -1) for image, _ in make_images(12, size=16)]
    teacher = ZeroShotCLIP(pretrained=folder, class_names=CLASSES)
    options = {"views": ["rgb", "edge"], "fusion": fusion, "feature_weight": 0, "text_weight": 0, "optimizer": sgd}
    module = tmkd_module(teacher, Net(), distiller=KD(), **options)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    module.distiller.register_forward_pre_hook(lambda _, args: seen.append((args[1].logits, args[2])))
    fit(module, train=DataLoader(unlabelled, batch_size=6), max_epochs=1, callbacks=[prompts()])
    images = torch.stack([image for image, _ in unlabelled[:6]])
    with torch.no_grad():
        answers = [Extractor(copy.deepcopy(teacher))(view(images / 255)).logits for view in module.views.views]
    torch.testing.assert_close(seen[0][1], answers[0].softmax(1))
    if fusion == "mean":
        torch.testing.assert_close(seen[0][0], torch.stack(answers).mean(0))


@pytest.mark.parametrize("num_classes", ["data", None])
def test_class_names_of_the_data(fit, folder: str, num_classes: str | None) -> None:
    data = DigitsDataModule(**DIGITS)
    student = Net(num_classes=7 if num_classes == "data" else 10)
    module = tmkd_module(ZeroShotCLIP(pretrained=folder), student, distiller=KD(), num_classes=num_classes, **ALONE)
    fit(module, datamodule=data, max_epochs=1)
    torch.testing.assert_close(module.teacher.extractor.head.weight, rows(folder, data.class_phrases))
    assert not any(key.startswith("teacher") for key in module.state_dict())


def test_names_of_the_module_and_of_other_data(fit, folder: str, loader) -> None:
    module = tmkd_module(ZeroShotCLIP(pretrained=folder), Net(), distiller=KD(), class_names=CLASSES, **ALONE)
    fit(module, train=loader(), max_epochs=1)
    torch.testing.assert_close(module.teacher.extractor.head.weight, rows(folder, CLASSES))
    module.class_names = ["sea", "sky", "sun"]
    fit(module, train=loader(), max_epochs=1)
    torch.testing.assert_close(module.teacher.extractor.head.weight, rows(folder, ["sea", "sky", "sun"]))


def test_names_that_are_missing_or_in_another_order(fit, folder: str, loader) -> None:
    module = tmkd_module(ZeroShotCLIP(pretrained=folder), Net(), distiller=KD(), **ALONE)
    with pytest.raises(ValueError, match=r"no class names to write prompts with: .*ZeroShotCLIP\(class_names=...\)"):
        fit(module, train=loader())
    names = DigitsDataModule().class_names[::-1]
    teacher = ZeroShotCLIP(pretrained=folder, class_names=names)
    with pytest.raises(ValueError, match="in another order: class 0 is 'zero' in the data and 'nine' in ZeroShotCLIP"):
        fit(tmkd_module(teacher, Net(num_classes=10), distiller=KD(), **ALONE), datamodule=DigitsDataModule(**DIGITS))


def test_cache_computes_the_same_logits(fit, folder: str, tmp_path: Path) -> None:
    """It stores embeddings, and the head makes the logits of them; in a later run the tower does not run."""
    losses = []
    for run in range(2):
        torch.manual_seed(0)
        cached = TeacherCache(str(tmp_path / "teachers"), dtype="float32")
        module = tmkd_module(ZeroShotCLIP(pretrained=folder), Net(num_classes=10), distiller=KD(), **ALONE)
        if run:
            module.teacher.frozen.register_forward_pre_hook(lambda *_: pytest.fail("the teacher ran"))
        data = DigitsDataModule(**DIGITS, augmentation_replicas=1)
        trainer = fit(module, datamodule=data, max_epochs=1, callbacks=[cached])
        losses.append(trainer.callback_metrics["train/kd"])
    assert [path.name for path in tmp_path.glob("teachers/*/embedding*.float32.npy")] == ["embedding.float32.npy"]
    torch.testing.assert_close(*losses, rtol=1e-6, atol=0)


def test_a_feature_loss_on_embeddings_of_length_one_is_warned_of(folder: str) -> None:
    with pytest.warns(UserWarning, match=r"embeddings of a ZeroShotCLIP have length 1, .*: set feature_weight=0"):
        TMKDModule(ZeroShotCLIP(pretrained=folder, class_names=["red", "green", "blue"]), Net(), distiller=KD())


def test_from_yaml(folder: str, tmp_path: Path) -> None:
    teacher = {"class_path": "tmkd_lightning.models.ZeroShotCLIP", "init_args": {"pretrained": folder}}
    arguments = {
        "teacher": teacher,
        "student": {"class_path": "helpers.tiny.Net"},
        "num_classes": "data",
        "distiller": {"class_path": "tmkd_lightning.distillers.KD"},
        **{name: value for name, value in ALONE.items() if name != "optimizer"},
    }
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    config = {
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "default_root_dir": str(tmp_path / "run"), **quiet},
        "model": {"class_path": "tmkd_lightning.TMKDModule", "init_args": arguments},
        "data": {"class_path": "tmkd_lightning.data.DigitsDataModule", "init_args": DIGITS},
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    main(["fit", "--config", str(path)])
    (checkpoint,) = (tmp_path / "run").rglob("*.ckpt")
    saved = torch.load(checkpoint, weights_only=True)
    assert saved["hyper_parameters"]["teacher"]["init_args"]["pretrained"] == folder
    assert saved["tmkd_class_names"][:2] == ["zero", "one"]


@pytest.mark.filterwarnings("ignore:Total length of `list`")  # of validation images, which there are not
def test_the_example_needs_no_label(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for index in range(4):
        path = tmp_path / f"photos/new/{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 32), (60 * index, 90, 200)).save(path)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    small = {
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "log_every_n_steps": 1, **quiet},
        "model": {"init_args": {"teacher": {"init_args": {"pretrained": folder}}}},
        "data": {"init_args": {"batch_size": 2, "num_workers": 0, "image_size": 32}},
    }
    small["model"]["init_args"]["student"] = {"init_args": {"weights": None}}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small))
    main(["fit", "--config", str(EXAMPLES / "clip_resnet18.yaml"), "--config", "small.yaml"])
    saved = torch.load("runs/clip_resnet18/last.ckpt", weights_only=True)
    assert saved["tmkd_class_names"] == ["cat", "crow", "dog"]
    assert saved["state_dict"]["student.fc.weight"].shape == (3, 512)


# Teachers' files from servers


def test_a_tuned_clip_from_a_file(fit, loader, folder: str, tmp_path: Path) -> None:
    """Its head is in the file: no class names are asked for, and no text is encoded."""
    tuned = ZeroShotCLIP(pretrained=folder, class_names=CLASSES)
    torch.save({key: value + 1 for key, value in tuned.state_dict().items()}, tmp_path / "tuned.pt")
    teacher = ZeroShotCLIP(pretrained=folder)
    module = tmkd_module(teacher, Net(), distiller=KD(), teacher_checkpoint=str(tmp_path / "tuned.pt"), **ALONE)
    fit(module, train=loader(), max_epochs=1)
    assert teacher.head.weight.equal(tuned.head.weight + 1)


def test_teacher_checkpoint_from_a_server(fit, loader, tmp_path: Path) -> None:
    """Fetched when training starts; neither its URL's key nor its path is saved."""
    trained = Net()
    served = tmp_path / "served"
    served.mkdir()
    torch.save(trained.state_dict(), served / "teacher.pt")
    with serve(served) as server:
        url = f"{server.url}/teacher.pt?sig=5up3r"
        module = tmkd_module(Net(), Net(), distiller=KD(), teacher_checkpoint=url, **ALONE)
        assert not server.asked
        trainer = fit(module, train=loader(), max_epochs=1)
    for key, value in module.teacher.extractor.network.state_dict().items():
        assert value.equal(trained.state_dict()[key])
    assert server.asked == ["teacher.pt"]
    assert Path(module.teacher_checkpoint).read_bytes() == (served / "teacher.pt").read_bytes()
    trainer.save_checkpoint(tmp_path / "student.ckpt")
    assert b"5up3r" not in (tmp_path / "student.ckpt").read_bytes()
    assert "5up3r" not in str(module.hparams_initial)


def test_a_location_is_checked_when_the_module_is_built() -> None:
    with pytest.raises(ValueError, match=r"teacher_checkpoint='ftp://here/teacher.pt' is neither a path nor hf://"):
        tmkd_module(Net(), Net(), teacher_checkpoint="ftp://here/teacher.pt")
