"""``tmkd probe``: what it reads, what it writes, and what it refuses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader, TensorDataset

from helpers.fake_datasets import serve
from helpers.tiny import Net, make_images, tmkd_module
from tmkd_lightning import ClassifierModule, Ensemble, Extractor, TMKDModule
from tmkd_lightning.callbacks import TeacherCache
from tmkd_lightning.cli import probe
from tmkd_lightning.cli.main import main
from tmkd_lightning.data import DigitsDataModule
from tmkd_lightning.distillers import RKD
from tmkd_lightning.models import load_weights
from tmkd_lightning.modules.loading import load_module
from tmkd_lightning.utils.checkpoint_reading import read_checkpoint

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
VIEWS = ["rgb", "edge"]


@pytest.fixture
def config(tmp_path, monkeypatch) -> dict[str, Any]:
    """Of a distillation of 60 digits of 8 pixels, from a network of other classes."""
    monkeypatch.chdir(tmp_path)
    network = {"class_path": "helpers.tiny.Net", "init_args": {"width": 32, "num_classes": 7}}
    return {
        "trainer": {"accelerator": "cpu", "enable_progress_bar": False, "logger": False},
        "model": {
            "class_path": "tmkd_lightning.TMKDModule",
            "init_args": {
                "teacher": network,
                "student": {"class_path": "helpers.tiny.Net"},
                "num_classes": 10,
                "views": VIEWS,
                "text_weight": 0.8,
                "teacher_checkpoint": "teacher.ckpt",
            },
        },
        "data": {
            "class_path": "tmkd_lightning.data.DigitsDataModule",
            "init_args": {"image_size": 8, "train_samples": 60},
        },
    }


def run(config: dict[str, Any], *options: str) -> None:
    Path("config.yaml").write_text(yaml.safe_dump(config))
    main(["probe", "--config", "config.yaml", *options])


def test_a_teacher_for_its_own_config(config, capsys) -> None:
    """The head that was written is the one that was measured, and the file one that every verb can read."""
    run(config)
    told = capsys.readouterr().out
    assert "Head of Net: 10 classes on 32 numbers, from 60 images in 2 views; C=" in told
    top1 = {name: float(value) for name, value in re.findall(r"(rgb|edge|mean of views) ([\d.]+)%", told)}
    content = read_checkpoint(Path("teacher.ckpt"))
    assert content["tmkd_class_names"][:2] == content["tmkd_trained_class_names"][:2] == ["zero", "one"]

    teacher = Extractor(Net(32, num_classes=10)).eval()
    load_weights(teacher, "teacher.ckpt", replace_head=False)
    data = DigitsDataModule(image_size=8)
    images, labels = zip(*[(data.eval_transform(image), label) for image, label in data.samples("val")], strict=True)
    with torch.no_grad():
        right = (teacher(torch.stack(images)).logits.argmax(1) == torch.tensor(labels)).float().mean().item()
    assert top1["rgb"] == pytest.approx(100 * right, abs=0.05)
    assert right > 0.3  # a network of random weights; guessing is 0.1
    module = load_module("teacher.ckpt")
    assert isinstance(module, ClassifierModule)
    assert module.views.names == ("rgb", "edge")
    assert module.network.fc.weight.equal(teacher.head.weight)

    with pytest.raises(ValueError, match=r"teacher.ckpt, the teacher_checkpoint of the config, is there already"):
        run(config)


def test_a_network_without_a_head(config) -> None:
    """Its own head of zeros is fitted; as a ClassifierModule, by the shares of its views."""
    network = {"class_path": "helpers.tiny.Net", "init_args": {"num_classes": 6}}
    config["model"] = {
        "class_path": "tmkd_lightning.ClassifierModule",
        "init_args": {
            "network": {"class_path": "tmkd_lightning.models.Probe", "init_args": {"network": network}},
            "views": VIEWS,
            "view_shares": [0.9, 0.1],
        },
    }
    with pytest.raises(ValueError, match=r"where to write the teacher: give --output teacher.ckpt"):
        run(config)
    run(config, "--output", "new/probe.ckpt")
    module = load_module("new/probe.ckpt")
    assert module.num_classes == 10
    assert module.extractor.embedding_dim == 6
    assert module.extractor.knows_classes


@pytest.mark.parametrize("place", ["hf://owner/repository/teacher.ckpt@main", "https://example.org/teacher.pt"])
def test_a_teacher_on_a_server_is_no_place_to_write_to(config, place) -> None:
    """Taken for a path, it would be a folder called hf: here."""
    config["model"]["init_args"]["teacher_checkpoint"] = place
    with pytest.raises(ValueError, match=rf"tmkd probe cannot write to {place}: give --output teacher.ckpt"):
        run(config)
    assert [path.name for path in Path().iterdir()] == ["config.yaml"]


def test_a_teacher_on_a_server_is_fetched_and_read(config, tmp_path, monkeypatch) -> None:
    """The written network is the served one, under another head."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    served = Net(32, num_classes=10)
    (tmp_path / "served").mkdir()
    torch.save(served.state_dict(), tmp_path / "served" / "teacher.pt")
    with serve(tmp_path / "served") as server:
        config["model"]["init_args"]["teacher_checkpoint"] = f"{server.url}/teacher.pt"
        run(config, "--output", "head.ckpt")
    written = load_module("head.ckpt").network
    assert written.conv.weight.equal(served.conv.weight)
    assert not written.fc.weight.equal(served.fc.weight)


def test_an_ensemble_is_refused() -> None:
    """A head would be fitted for its first member alone, and measured without the others."""
    module = ClassifierModule(Ensemble([Net(num_classes=10), Net(num_classes=10)]))
    with pytest.raises(ValueError, match="the head of one network, not of an Ensemble: probe each member alone"):
        probe.run_probe(Trainer(**QUIET), module, digits(), "ensemble.ckpt")


def digits(**options: Any) -> DigitsDataModule:
    return DigitsDataModule(image_size=8, train_samples=20, **options)


def teach(**options: Any) -> TMKDModule:
    torch.manual_seed(0)
    weights = {"feature_weight": 0, "logit_weight": 0, "text_weight": 0, "fusion": "mean", "views": VIEWS}
    return tmkd_module(Net(16, num_classes=10), Net(num_classes=10), distiller=RKD(), **weights, **options)


def test_training_images_are_prepared_as_for_validation_and_all_are_there() -> None:
    module, data = teach(), digits()
    train, val = probe.collect(Trainer(**QUIET), module, data, module.teacher.extractor, module.views)
    samples = data.samples("train")
    assert train.labels.tolist() == [label for _, label in samples]
    assert (train.values.shape, val.values.shape) == ((20, 2, 16), (299, 2, 16))
    images = torch.stack([data.eval_transform(image) for image, _ in samples])
    for index, view in enumerate(module.views.views):
        expected = module.teacher.extractor.eval()(view(images)).embedding
        torch.testing.assert_close(torch.from_numpy(train.values[:, index]), expected)


def test_a_complete_cache_is_read(tmp_path, monkeypatch, capsys) -> None:
    """The augmented images of all replicas, as the network would see them."""
    data, cache = digits(augmentation_replicas=2), TeacherCache(str(tmp_path / "cache"), dtype="float32")
    Trainer(max_epochs=2, callbacks=[cache], limit_val_batches=0, **QUIET).fit(teach(), datamodule=data)
    module, forwards = teach(), []
    module.teacher.frozen.register_forward_pre_hook(lambda _, args: forwards.append(len(args[0])))
    found, _ = probe.collect(Trainer(callbacks=[cache], **QUIET), module, data, module.teacher.extractor, module.views)
    assert sum(forwards) == 2 * 299  # of the validation images alone
    assert found.values.shape == (20, 4, 16)
    assert f"The training images, augmented in 2 pass(es), are read from {cache.directory}" in capsys.readouterr().out

    module = teach()
    arguments = Trainer(callbacks=[cache], **QUIET), module, data, module.teacher.extractor, module.views
    with pytest.raises(ValueError, match=r"augmented=4 has no say here: .* its images, augmented in 2 pass"):
        probe.collect(*arguments, augmented=4)

    module = teach()
    ours, _ = probe.collect(Trainer(**QUIET), module, digits(), module.teacher.extractor, module.views, augmented=2)
    np.testing.assert_allclose(found.values, ours.values, atol=1e-5)
    assert found.labels.tolist() == ours.labels.tolist()
    assert not np.allclose(ours.values[:, :2], ours.values[:, 2:])  # the second replica is another one


class Foreign(LightningDataModule):
    """Of somebody else: no validation, some labels unknown."""

    def __init__(self, labels: torch.Tensor) -> None:
        super().__init__()
        images = torch.stack([image for image, _ in make_images(len(labels))])
        self.data = TensorDataset(images, labels)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.data, batch_size=4)


def test_other_datamodules_and_images_without_a_label(net) -> None:
    module = ClassifierModule(net())
    data = Foreign(torch.tensor([0, -1, 2, 1, 0, -1]))
    train, val = probe.collect(Trainer(**QUIET), module, data, module.extractor, module.views)
    assert val is None
    assert train.labelled().labels.tolist() == [0, 2, 1, 0]
    assert np.array_equal(train.labelled().values, train.values[[0, 2, 3, 4]])
    with pytest.raises(ValueError, match="tmkd probe needs one class for each image, but the labels are distributions"):
        probe.collect(Trainer(**QUIET), module, Foreign(torch.eye(3)), module.extractor, module.views)
