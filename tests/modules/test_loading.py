"""Modules and students built again from a checkpoint of the command line, and from nothing else."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
import yaml

from helpers.fake_datasets import Trap
from helpers.tiny import Net
from tmkd_lightning import ClassifierModule, TMKDModule
from tmkd_lightning.cli.main import main as tmkd
from tmkd_lightning.data import DigitsDataModule
from tmkd_lightning.modules.loading import load_module, load_student

RUN = """
seed_everything: 0
trainer:
  max_epochs: 1
  limit_train_batches: 2
  limit_val_batches: 1.0
  accelerator: cpu
  enable_progress_bar: false
  enable_model_summary: false
  logger: false
  callbacks:
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {dirpath: runs, filename: last, enable_version_counter: false}
data:
  class_path: tmkd_lightning.data.DigitsDataModule
  init_args: {image_size: 16, train_samples: 100}
"""
TMKD = """
class_path: tmkd_lightning.TMKDModule
init_args:
  views: [rgb]
  text_weight: 0
  num_classes: data
  teacher: {class_path: tmkd_lightning.models.WideResNet, init_args: {depth: 10, widen_factor: 2, num_classes: 10}}
  student:
    class_path: tmkd_lightning.Extractor
    init_args:
      network: {class_path: tmkd_lightning.models.WideResNet, init_args: {depth: 10, num_classes: 4}}
      mean: [0.5, 0.4, 0.3]
      std: [0.1, 0.2, 0.3]
  optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.05}}
"""
NET = {"class_path": "tmkd_lightning.models.WideResNet", "init_args": {"depth": 10, "num_classes": 10}}
CLASSIFIER = {"class_path": "tmkd_lightning.ClassifierModule", "init_args": {"network": NET}}
LOADERS = pytest.mark.parametrize("load", [load_module, load_student])


def train(folder: Path, model: dict[str, Any]) -> Path:
    """Trains a module for two steps through the command line."""
    (folder / "run.yaml").write_text(yaml.safe_dump({**yaml.safe_load(RUN), "model": model}))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        tmkd(["fit", "--config", "run.yaml"])
    return folder / "runs" / "last.ckpt"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return train(tmp_path_factory.mktemp("run"), yaml.safe_load(TMKD))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Path:
    return train(tmp_path_factory.mktemp("run"), CLASSIFIER)


@pytest.fixture
def changed(checkpoint, tmp_path) -> Callable[..., Path]:
    """Saves a checkpoint again after a change of what is in it, or of its settings."""

    def make(change: Callable[[dict[str, Any]], object] = dict, path: Path = checkpoint, **settings: Any) -> Path:
        content = torch.load(path, weights_only=True)
        change(content)
        if settings:
            content["hyper_parameters"] |= settings
        torch.save(content, tmp_path / "changed.ckpt")
        return tmp_path / "changed.ckpt"

    return make


def test_a_classifier(classifier) -> None:
    module = load_module(classifier)
    assert type(module) is ClassifierModule
    saved = torch.load(classifier, weights_only=True)["state_dict"]
    assert saved.keys() == module.state_dict().keys()
    assert all(value.equal(saved[key]) for key, value in module.state_dict().items())


def test_a_module_of_the_users_own(tmp_path, monkeypatch) -> None:
    """Its class is imported: Lightning alone refuses classes that are not imported yet."""
    (tmp_path / "my_modules.py").write_text(
        "from tmkd_lightning import ClassifierModule\n\nclass Mine(ClassifierModule):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    path = train(tmp_path, CLASSIFIER | {"class_path": "my_modules.Mine"})
    sys.modules.pop("my_modules")
    assert type(load_module(path)).__name__ == "Mine"


def test_a_student_and_what_its_run_knew(checkpoint) -> None:
    restored = load_student(checkpoint)
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    saved = {key.removeprefix("student."): value for key, value in state.items() if key.startswith("student.")}
    own = restored.extractor.network.state_dict()
    assert own.keys() == saved.keys()
    assert all(value.equal(saved[key]) for key, value in own.items())
    torch.testing.assert_close(restored.extractor.mean.flatten(), torch.tensor([0.5, 0.4, 0.3]))
    assert restored.extractor.num_classes == 10  # the config says 4: the data decided
    assert not restored.extractor.training
    assert restored.class_names == DigitsDataModule().class_names
    assert restored.image_size == 16
    assert restored.normalized_with is None


def test_the_teacher_may_be_gone(changed) -> None:
    """Its weights for a module, and its code for a student."""
    path = changed(teacher_checkpoint="gone.ckpt")
    module = load_module(str(path))
    assert type(module) is TMKDModule
    assert module.teacher_checkpoint == "gone.ckpt"
    assert module.student.fc.weight.equal(torch.load(path, weights_only=True)["state_dict"]["student.fc.weight"])
    gone = {"class_path": "no_such_project.Teacher", "init_args": {}}
    assert load_student(changed(teacher=gone, teacher_checkpoint="gone.ckpt")).extractor.num_classes == 10


def test_pretrained_weights_are_not_fetched(tmp_path, fit, loader, monkeypatch) -> None:
    """The run began with ImageNet weights, which are out of reach by now."""

    def unreachable(*args, **options):
        raise AssertionError("asked for weights")

    module = ClassifierModule(torchvision.models.mnasnet0_5(num_classes=3))
    fit(module, train=loader(size=32), max_epochs=1).save_checkpoint(tmp_path / "last.ckpt")
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    arguments = {"weights": "IMAGENET1K_V1", "progress": True, "num_classes": 1000}
    content["hyper_parameters"]["network"] = {"class_path": "torchvision.models.mnasnet0_5", "init_args": arguments}
    torch.save(content, tmp_path / "last.ckpt")
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
    image = torch.rand(1, 3, 32, 32)
    restored = load_student(tmp_path / "last.ckpt").extractor(image).logits
    torch.testing.assert_close(restored, module.eval()(image), rtol=1e-4, atol=1e-5)  # another memory layout


# What is refused


def test_a_file_made_in_python_cannot_say_how_its_network_is_built(tmp_path, fit, changed) -> None:
    path = tmp_path / "last.ckpt"
    fit(ClassifierModule(Net()), max_epochs=1).save_checkpoint(path)
    with pytest.raises(ValueError, match=r"last\.ckpt does not say how its module is built.*load_from_checkpoint"):
        load_module(path)
    with pytest.raises(ValueError, match="made in Python") as caught:
        load_student(path)
    call = f"ClassifierModule.load_from_checkpoint({str(path)!r}, network=..., weights_only=True)"
    assert call in str(caught.value)
    assert isinstance(eval(call.replace("...", "Net()")), ClassifierModule)  # the advice works
    assert "tmkd_lightning.export.export_student(module, ...)" in str(caught.value)
    path = changed(lambda content: [content["hyper_parameters"].pop(name) for name in ("teacher", "student")])
    with pytest.raises(ValueError, match=r"TMKDModule\.load_from_checkpoint\(.*, teacher=\.\.\., student=\.\.\."):
        load_student(path)


@LOADERS
@pytest.mark.parametrize("part", [0.0, 0.3, 0.9])
def test_files_that_are_missing_or_truncated(checkpoint, tmp_path, load, part) -> None:
    with pytest.raises(FileNotFoundError, match=f"no checkpoint at {tmp_path / 'best.ckpt'}"):
        load(tmp_path / "best.ckpt")
    content = checkpoint.read_bytes()
    (tmp_path / "best.ckpt").write_bytes(content[: int(part * len(content))])
    with pytest.raises(ValueError, match=r"best\.ckpt is not a checkpoint that can be read safely"):
        load(tmp_path / "best.ckpt")


@LOADERS
def test_a_malicious_file_runs_nothing(changed, tmp_path, load) -> None:
    path = changed(lambda content: content.update(callbacks=Trap(tmp_path / "hacked")))
    with pytest.raises(ValueError, match="not a checkpoint that can be read safely"):
        load(path)
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("content", [torch.ones(3), [1], {"a": torch.ones(3)}, {"state_dict": {"a": torch.ones(1)}}])
def test_files_of_others(tmp_path, content) -> None:
    path = tmp_path / "other.pt"
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"other\.pt is no checkpoint of a TMKDModule .*load_weights"):
        load_student(path)
    run = isinstance(content, dict) and "state_dict" in content
    what = "does not say how its module is built" if run else "is not a checkpoint of a run"
    with pytest.raises(ValueError, match=rf"other\.pt {what}"):
        load_module(path)


@LOADERS
@pytest.mark.parametrize("name", ["state_dict", "hyper_parameters", "datamodule_hyper_parameters", "callbacks"])
@pytest.mark.parametrize("part", [[1], "words"])
def test_a_part_that_is_something_else(changed, load, name, part) -> None:
    path = changed(lambda content: content.update({name: part}))
    kind = type(part).__name__
    with pytest.raises(ValueError, match=rf"{path} is damaged, .*: its {name} should be a mapping and is a {kind}"):
        load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("state_dict"), "its state_dict should be a mapping and is missing"),
        (
            lambda content: content.update(state_dict={"fc.weight": 1}, hyper_parameters={}),
            "its state_dict holds no network",
        ),
        (
            lambda content: content.update(state_dict={5: torch.ones(1)}),
            "its state_dict has keys that are no names",
        ),
    ],
)
def test_parts_that_are_missing(changed, change, message) -> None:
    path = changed(change)
    with pytest.raises(ValueError, match=rf"{path} is damaged, .*: {message}"):
        load_student(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_path": "no_such_package.Module"}, "No module named 'no_such_package'"),
        ({"_class_path": "lightning.pytorch.demos.BoringModel"}, "cannot be built again as a lightning.pytorch.demos"),
        ({"network": {"class_path": "no_such_package.Net"}}, "no_such_package"),
        ({"_instantiator": "os.system"}, "does not say how its module is built"),
    ],
)
def test_recipes_that_cannot_be_followed(classifier, changed, change, message) -> None:
    with pytest.raises(ValueError, match=message):
        load_module(changed(path=classifier, **change))
    path = changed(lambda content: content.update(hyper_parameters=None), classifier)
    with pytest.raises(ValueError, match=r"changed\.ckpt does not say how its module is built"):
        load_module(path)


def test_weights_of_another_network(classifier, changed) -> None:
    path = changed(path=classifier, network={**NET, "init_args": {"depth": 10, "num_classes": 7}})
    with pytest.raises(
        ValueError, match=r"changed\.ckpt does not fit WideResNet.*other shapes: network\.fc\.weight is"
    ):
        load_module(path)


@LOADERS
def test_renamed_weights_are_named(classifier, changed, load) -> None:
    def rename(content: dict[str, Any]) -> None:
        content["state_dict"]["network.old_name"] = content["state_dict"].pop("network.fc.bias")

    path = changed(rename, classifier)
    with pytest.raises(ValueError, match="does not fit") as caught:
        load(path)
    assert str(caught.value) == (
        f"{path} does not fit WideResNet, which its config describes: missing keys: "
        "network.fc.bias; unknown keys: network.old_name. Was it made with another version of that network?"
    )


def test_an_unknown_argument_is_told_in_one_short_line(classifier, changed, tmp_path) -> None:
    path = changed(path=classifier, of_tomorrow=1)
    with pytest.raises(ValueError, match=r"changed\.ckpt cannot be built again .*another version.*of_tomo") as caught:
        load_module(path)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message.replace(str(tmp_path), "")) < 600


@pytest.mark.filterwarnings("ignore:(?s).*Importing .* is not allowed")
@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "the network of {path}, .*, cannot be built here"),
        ({"class_path": "timm.create_model", "init_args": [1]}, "the network of {path}, .*, cannot be built here"),
        ({"class_path": 5}, "the network of {path}, .*, cannot be built here"),
        ({"class_path": "os.system", "init_args": {}}, "the network of {path}, os.system, cannot be built here"),
        ({"class_path": "builtins.print", "init_args": {}}, "builtins.print, cannot be built here"),
        ({"class_path": "torch.optim.SGD", "init_args": {}}, "torch.optim.SGD, cannot be built here"),
        ({"class_path": "no_such_project.Student"}, r"no_such_project\.Student, cannot be built here: is what it"),
        (NET | {"init_args": {"depth": 16, "num_classes": 10}}, "does not fit WideResNet, .*: missing keys: network"),
    ],
)
def test_a_config_that_gives_no_such_network(changed, config, message) -> None:
    path = changed(student=config)
    with pytest.raises(ValueError, match=message.replace("{path}", str(path))):
        load_student(path)


# On the command line


def test_export_needs_the_checkpoint_alone(checkpoint, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    tmkd(["export", "--checkpoint", str(checkpoint), "--output", "student.pt2", "--format", "torch_export"])
    printed = capsys.readouterr().out
    assert "student.pt2: WideResNet as torch_export, checked against the module" in printed
    assert "float32 in [0, 1], (batch, 3, 16, 16)" in printed
    assert printed.endswith("classes  10\n")
    image = torch.rand(4, 3, 16, 16)
    expected = load_student(checkpoint).extractor(image).logits
    torch.testing.assert_close(torch.export.load("student.pt2").module()(image), expected, rtol=0, atol=1e-4)


def test_export_says_if_classes_have_no_names(changed, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    path = changed(lambda content: content.update(tmkd_class_names=None))
    command = ["export", "--checkpoint", str(path), "--output", "student.safetensors", "--format", "state_dict"]
    tmkd(command)
    assert "called by number: pass --class_names" in capsys.readouterr().out
    tmkd([*command, "--class_names", "[a, b, c, d, e, f, g, h, i, j]"])
    assert "by number" not in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["export", "predict"])
def test_names_may_be_others_and_not_in_another_order(checkpoint, tmp_path, verb) -> None:
    names = DigitsDataModule().class_names
    files = {"export": ["--output", str(tmp_path / "a.onnx")], "predict": ["--images", ".", "--output", "a.csv"]}[verb]
    command = [verb, "--checkpoint", str(checkpoint), *files]
    with pytest.raises(ValueError, match="class 0 is 'zero' in the checkpoint and 'nine' in the names given"):
        tmkd([*command, "--class_names", f"[{', '.join(reversed(names))}]"])
    assert load_student(checkpoint).names(["none", *names[1:]])[0] == "none"


def test_export_asks_for_a_size_that_nobody_knows(changed, tmp_path) -> None:
    path = changed(lambda content: content.pop("datamodule_hyper_parameters"))
    assert load_student(path).data is None
    with pytest.raises(ValueError, match="does not say how large its images were: pass --image_size"):
        tmkd(["export", "--checkpoint", str(path), "--output", str(tmp_path / "student.onnx")])


def test_export_warns_of_images_of_another_size(checkpoint, tmp_path, capsys) -> None:
    output = ["--output", str(tmp_path / "a.safetensors"), "--format", "state_dict"]
    for size, warning in ((24, "WARNING: images of the run were 16 pixels, not 24\n"), (16, "")):
        tmkd(["export", "--checkpoint", str(checkpoint), *output, "--image_size", str(size)])
        assert capsys.readouterr().err.startswith(warning or "Writing ")


def test_export_names_the_formats(checkpoint, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit):
        tmkd(["export", "--checkpoint", str(checkpoint), "--output", str(tmp_path / "s.tflite"), "--format", "tflite"])
    message = capsys.readouterr().err
    assert all(name in message for name in ("tflite", "onnx", "torch_export", "state_dict"))
    assert not list(tmp_path.iterdir())
