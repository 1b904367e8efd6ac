"""A module from its checkpoint alone: of the command line's, and of nobody else's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import yaml

from tmkd_lightning import ClassifierModule, TMKDModule
from tmkd_lightning.cli.main import main
from tmkd_lightning.modules.loading import load_module, load_student

NET = {"class_path": "tmkd_lightning.models.WideResNet", "init_args": {"depth": 10, "num_classes": 10}}
RUN = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--trainer.limit_val_batches=0"]
RUN += ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.logger=false"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Trains a module of a class for one step in a folder of its own, through the command line."""

    def run(class_path: str, **arguments) -> Path:
        folder = tmp_path_factory.mktemp("run")
        saved = {
            "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
            "init_args": {"dirpath": str(folder), "filename": "last"},
        }
        config = {
            "trainer": {"callbacks": [saved], "default_root_dir": str(folder)},
            "model": {"class_path": class_path, "init_args": arguments},
            "data": {"class_path": "tmkd_lightning.data.DigitsDataModule", "init_args": {"image_size": 16}},
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            main(["fit", "--config", str(folder / "config.yaml"), *RUN])
        return folder / "last.ckpt"

    return run


@pytest.fixture(scope="module")
def classifier(trained) -> Path:
    return trained("tmkd_lightning.ClassifierModule", network=NET)


def test_a_classifier(classifier) -> None:
    module = load_module(classifier)
    assert type(module) is ClassifierModule
    saved = torch.load(classifier, weights_only=True)["state_dict"]
    assert saved.keys() == module.state_dict().keys()
    assert all(value.equal(saved[key]) for key, value in module.state_dict().items())


def test_a_student_whose_teacher_is_gone(trained, tmp_path) -> None:
    path = trained(
        "tmkd_lightning.TMKDModule", teacher=NET, student=NET, distiller="tmkd_lightning.distillers.KD",
        views=["rgb"], text_weight=0, num_classes="data",
    )  # fmt: skip
    content = torch.load(path, weights_only=True)
    content["hyper_parameters"]["teacher_checkpoint"] = "gone.ckpt"
    torch.save(content, tmp_path / "student.ckpt")
    module = load_module(str(tmp_path / "student.ckpt"))
    assert type(module) is TMKDModule
    assert module.teacher_checkpoint == "gone.ckpt"
    assert module.student.fc.weight.equal(content["state_dict"]["student.fc.weight"])


def test_a_module_of_the_users_own(trained, tmp_path, monkeypatch) -> None:
    """Its class is imported: Lightning alone refuses classes that are not imported yet."""
    (tmp_path / "my_modules.py").write_text(
        "from tmkd_lightning import ClassifierModule\n\nclass Mine(ClassifierModule):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    path = trained("my_modules.Mine", network=NET)
    sys.modules.pop("my_modules")
    assert type(load_module(path)).__name__ == "Mine"


def test_a_module_built_in_python_has_no_recipe(fit, net, loader, tmp_path) -> None:
    fit(ClassifierModule(net()), val=loader()).save_checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"last\.ckpt does not say how its module is built.*load_from_checkpoint"):
        load_module(tmp_path / "last.ckpt")


def test_missing(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=f"no checkpoint at {tmp_path / 'best.ckpt'}"):
        load_module(tmp_path / "best.ckpt")


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9])
def test_truncated(classifier, tmp_path, part) -> None:
    content = classifier.read_bytes()
    (tmp_path / "best.ckpt").write_bytes(content[: int(part * len(content))])
    with pytest.raises(ValueError, match=r"best\.ckpt is not a checkpoint that can be read safely"):
        load_module(tmp_path / "best.ckpt")


@pytest.mark.parametrize("content", [torch.ones(3), {"a": torch.ones(3)}, [1]])
def test_foreign(tmp_path, content) -> None:
    torch.save(content, tmp_path / "best.ckpt")
    with pytest.raises(ValueError, match=r"best\.ckpt is not a checkpoint of a run"):
        load_module(tmp_path / "best.ckpt")


@pytest.mark.parametrize("name", ["state_dict", "hyper_parameters", "datamodule_hyper_parameters", "callbacks"])
@pytest.mark.parametrize("part", [[1], "words"])
def test_a_part_that_is_something_else(classifier, tmp_path, name, part) -> None:
    torch.save(torch.load(classifier, weights_only=True) | {name: part}, tmp_path / "best.ckpt")
    kind = type(part).__name__
    with pytest.raises(ValueError, match=rf"best\.ckpt is damaged, .*: its {name} should be a mapping and is a {kind}"):
        load_module(tmp_path / "best.ckpt")


def test_settings_that_are_nothing(classifier, tmp_path) -> None:
    torch.save(torch.load(classifier, weights_only=True) | {"hyper_parameters": None}, tmp_path / "best.ckpt")
    with pytest.raises(ValueError, match=r"best\.ckpt does not say how its module is built"):
        load_module(tmp_path / "best.ckpt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_path": "no_such_package.Module"}, "No module named 'no_such_package'"),
        ({"_class_path": "lightning.pytorch.demos.BoringModel"}, "cannot be built again as a lightning.pytorch.demos"),
        ({"network": {"class_path": "no_such_package.Net"}}, "no_such_package"),
        ({"_instantiator": "os.system"}, "does not say how its module is built"),
    ],
)
def test_recipes_that_cannot_be_followed(classifier, tmp_path, change, message) -> None:
    content = torch.load(classifier, weights_only=True)
    content["hyper_parameters"] |= change
    torch.save(content, tmp_path / "best.ckpt")
    with pytest.raises(ValueError, match=message):
        load_module(tmp_path / "best.ckpt")


def test_weights_of_another_network(classifier, tmp_path) -> None:
    content = torch.load(classifier, weights_only=True)
    content["hyper_parameters"]["network"]["init_args"]["num_classes"] = 7
    torch.save(content, tmp_path / "best.ckpt")
    with pytest.raises(ValueError, match=r"best\.ckpt does not fit WideResNet.*other shapes: network\.fc\.weight is"):
        load_module(tmp_path / "best.ckpt")


def test_renamed_weights_get_the_message_of_export(classifier, tmp_path) -> None:
    content = torch.load(classifier, weights_only=True)
    state = content["state_dict"]
    state["network.old_name"] = state.pop("network.fc.bias")
    torch.save(content, tmp_path / "best.ckpt")
    with pytest.raises(ValueError, match="does not fit") as of_rebuild:
        load_module(tmp_path / "best.ckpt")
    assert str(of_rebuild.value) == (
        f"{tmp_path / 'best.ckpt'} does not fit WideResNet, which its config describes: missing keys: "
        "network.fc.bias; unknown keys: network.old_name. Was it made with another version of that network?"
    )
    with pytest.raises(ValueError, match="does not fit") as of_export:
        load_student(tmp_path / "best.ckpt")
    assert str(of_export.value) == str(of_rebuild.value)


def test_an_unknown_argument_is_told_in_one_short_line(classifier, tmp_path) -> None:
    content = torch.load(classifier, weights_only=True)
    content["hyper_parameters"]["of_tomorrow"] = 1
    torch.save(content, tmp_path / "best.ckpt")
    with pytest.raises(ValueError, match=r"best\.ckpt cannot be built again .*another version.*of_tomorrow") as caught:
        load_module(tmp_path / "best.ckpt")
    message = str(caught.value)
    assert "\n" not in message
    assert len(message.replace(str(tmp_path), "")) < 600
