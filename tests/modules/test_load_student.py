"""Students built again from a checkpoint of the command line, and from nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from helpers.fake_datasets import Trap
from helpers.tiny import Net
from tmkd_lightning import ClassifierModule
from tmkd_lightning.cli.main import main as tmkd
from tmkd_lightning.data import DigitsDataModule
from tmkd_lightning.modules.loading import load_student

RUN = """
seed_everything: 0
trainer:
  max_epochs: 1
  limit_train_batches: 2
  limit_val_batches: 1
  accelerator: cpu
  enable_progress_bar: false
  enable_model_summary: false
  logger: false
  callbacks:
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {dirpath: runs, filename: last, enable_version_counter: false}
model:
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
data:
  class_path: tmkd_lightning.data.DigitsDataModule
  init_args: {image_size: 16, train_samples: 100}
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "run.yaml").write_text(RUN)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        tmkd(["fit", "--config", "run.yaml"])
    return folder / "runs" / "last.ckpt"


@pytest.fixture
def changed(checkpoint, tmp_path) -> Callable[[Callable[[dict[str, Any]], object]], Path]:
    """Saves the checkpoint again after a change."""

    def make(change: Callable[[dict[str, Any]], object]) -> Path:
        content = torch.load(checkpoint, weights_only=True)
        change(content)
        torch.save(content, tmp_path / "changed.ckpt")
        return tmp_path / "changed.ckpt"

    return make


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


def test_the_teacher_is_not_built(changed) -> None:
    gone = {"class_path": "no_such_project.Teacher", "init_args": {}}
    path = changed(lambda content: content["hyper_parameters"].update(teacher=gone, teacher_checkpoint="gone.ckpt"))
    assert load_student(path).extractor.num_classes == 10


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


def test_a_file_made_in_python_cannot_say_how_its_network_is_built(tmp_path, fit) -> None:
    path = tmp_path / "last.ckpt"
    fit(ClassifierModule(Net()), max_epochs=1).save_checkpoint(path)
    with pytest.raises(ValueError, match="made in Python") as caught:
        load_student(path)
    call = f"ClassifierModule.load_from_checkpoint({str(path)!r}, network=..., weights_only=True)"
    assert call in str(caught.value)
    assert isinstance(eval(call.replace("...", "Net()")), ClassifierModule)  # the advice works
    assert "tmkd_lightning.export.export_student(module, ...)" in str(caught.value)


def test_a_tmkd_module_made_in_python_wants_both_networks(changed) -> None:
    path = changed(lambda content: [content["hyper_parameters"].pop(name) for name in ("teacher", "student")])
    with pytest.raises(ValueError, match=r"TMKDModule\.load_from_checkpoint\(.*, teacher=\.\.\., student=\.\.\."):
        load_student(path)


@pytest.mark.parametrize("content", [{"state_dict": {"model.weight": torch.ones(1)}}, {"weight": torch.ones(1)}, [1]])
def test_files_of_others(tmp_path, content) -> None:
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other\.pt is no checkpoint of a TMKDModule .*load_weights"):
        load_student(tmp_path / "other.pt")


@pytest.mark.parametrize("name", ["state_dict", "hyper_parameters", "datamodule_hyper_parameters"])
def test_a_part_that_is_something_else(changed, name) -> None:
    path = changed(lambda content: content.update({name: [1]}))
    with pytest.raises(ValueError, match=rf"{path} is damaged, .*: its {name} should be a mapping and is a list"):
        load_student(path)


def test_parts_that_are_missing(changed) -> None:
    path = changed(lambda content: content.pop("state_dict"))
    with pytest.raises(ValueError, match=rf"{path} is damaged, .*: its state_dict should be a mapping and is missing"):
        load_student(path)
    path = changed(lambda content: content.pop("datamodule_hyper_parameters"))
    assert load_student(path).data is None
    path = changed(lambda content: content.update(state_dict={"fc.weight": 1}, hyper_parameters={}))
    with pytest.raises(ValueError, match=rf"{path} is damaged, .*: its state_dict holds no network"):
        load_student(path)
    path = changed(lambda content: content.update(state_dict={5: torch.ones(1)}))
    with pytest.raises(ValueError, match=rf"{path} is damaged, .*: its state_dict has keys that are no names"):
        load_student(path)


@pytest.mark.parametrize("config", [{}, {"class_path": "timm.create_model", "init_args": [1]}, {"class_path": 5}])
def test_a_config_that_is_none(changed, config) -> None:
    path = changed(lambda content: content["hyper_parameters"].update(student=config))
    with pytest.raises(ValueError, match=f"the network of {path}, .*, cannot be built here"):
        load_student(path)


def test_a_missing_file(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*last\.ckpt"):
        load_student(tmp_path / "last.ckpt")


def test_a_truncated_file(checkpoint, tmp_path) -> None:
    (tmp_path / "half.ckpt").write_bytes(checkpoint.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"half\.ckpt is not a checkpoint that can be read safely"):
        load_student(tmp_path / "half.ckpt")


def test_a_malicious_file_runs_nothing(changed, tmp_path) -> None:
    path = changed(lambda content: content.update(callbacks=Trap(tmp_path / "hacked")))
    with pytest.raises(ValueError, match="not a checkpoint that can be read safely"):
        load_student(path)
    assert not (tmp_path / "hacked").exists()


@pytest.mark.filterwarnings("ignore:(?s).*Importing .* is not allowed")
@pytest.mark.parametrize("class_path", ["os.system", "builtins.print", "torch.optim.SGD"])
def test_a_config_that_names_something_else_than_a_network(changed, class_path) -> None:
    config = {"class_path": class_path, "init_args": {}}
    path = changed(lambda content: content["hyper_parameters"].update(student=config))
    with pytest.raises(ValueError, match=f"the network of .*, {class_path}, cannot be built here"):
        load_student(path)


def test_a_network_that_is_not_installed(changed) -> None:
    config = {"class_path": "no_such_project.Student", "init_args": {}}
    path = changed(lambda content: content["hyper_parameters"].update(student=config))
    with pytest.raises(ValueError, match=r"no_such_project\.Student, cannot be built here: is what it"):
        load_student(path)


def test_a_network_that_has_changed_since(changed) -> None:
    config = {"class_path": "tmkd_lightning.models.WideResNet", "init_args": {"depth": 16, "num_classes": 10}}
    path = changed(lambda content: content["hyper_parameters"].update(student=config))
    with pytest.raises(ValueError, match=r"does not fit WideResNet, which its config describes: missing keys: network"):
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
    command = ["export", "--checkpoint", str(path), "--output", str(tmp_path / "student.onnx")]
    with pytest.raises(ValueError, match="does not say how large its images were: pass --image_size"):
        tmkd(command)


def test_export_warns_of_images_of_another_size(checkpoint, tmp_path, capsys) -> None:
    command = ["export", "--checkpoint", str(checkpoint), "--format", "state_dict", "--image_size"]
    tmkd([*command, "24", "--output", str(tmp_path / "other.safetensors")])
    assert capsys.readouterr().err == "WARNING: images of the run were 16 pixels, not 24\n"
    tmkd([*command, "16", "--output", str(tmp_path / "same.safetensors")])
    assert capsys.readouterr().err == ""


def test_export_names_the_formats(checkpoint, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit):
        tmkd(["export", "--checkpoint", str(checkpoint), "--output", str(tmp_path / "s.tflite"), "--format", "tflite"])
    message = capsys.readouterr().err
    assert all(name in message for name in ("tflite", "onnx", "torch_export", "state_dict"))
    assert not list(tmp_path.iterdir())
