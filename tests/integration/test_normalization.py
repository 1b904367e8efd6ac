"""A network says with what it was trained, and is normalised so, wherever it stands."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from helpers.tiny import tmkd_module
from tmkd_lightning import ClassifierModule, Extractor, TMKDModule
from tmkd_lightning.callbacks import TeacherCache
from tmkd_lightning.data import DigitsDataModule
from tmkd_lightning.export import export_student
from tmkd_lightning.models import Pretrained, load_weights
from tmkd_lightning.utils.images import IMAGENET_MEAN, IMAGENET_STD

HALF, IMAGENET = (0.5, 0.5, 0.5), (IMAGENET_MEAN, IMAGENET_STD)
CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
ALONE = {"views": ["rgb"], "feature_weight": 0, "text_weight": 0}


def used(extractor: Extractor) -> tuple[list[float], list[float]]:
    return extractor.mean.flatten().tolist(), extractor.std.flatten().tolist()


def vit() -> nn.Module:
    return timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=32, depth=1)


class Wrapped(nn.Module):
    def __init__(self, *networks: nn.Module) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, image: Tensor) -> Tensor:
        return torch.stack([network(image) for network in self.networks]).mean(0)


class Tower(nn.Module):
    """The image tower of an open_clip model says what its images are normalised with."""

    def __init__(self, num_classes: int = 3, image_mean: tuple[float, ...] = CLIP[0]) -> None:
        super().__init__()
        self.image_mean, self.image_std = image_mean, CLIP[1]
        self.fc = nn.Linear(3, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        return self.fc(image.mean((2, 3)))


@pytest.mark.parametrize("wrap", [lambda net: net, torch.compile, Wrapped, nn.Sequential, copy.deepcopy])
def test_timms_own_statistics_wherever_the_network_stands(wrap) -> None:
    extractor = Extractor(wrap(vit()))
    assert used(extractor) == (list(HALF), list(HALF))
    assert extractor.statistics_source.startswith("from ")


def test_in_a_module_teacher_and_student_each_have_their_own() -> None:
    module = tmkd_module(vit(), Pretrained("resnet18", 3, weights=None), views=["rgb"], text_weight=0)
    assert used(module.teacher.extractor) == (list(HALF), list(HALF))
    assert used(module.extractor)[0] == pytest.approx(IMAGENET_MEAN)
    compiled = ClassifierModule(torch.compile(Pretrained("efficientnet_v2_l", 3, weights=None)))
    assert used(compiled.extractor)[0] == [0.5] * 3


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (lambda: Wrapped(Tower()), CLIP),
        (lambda: Tower(image_mean=(0.5,)), IMAGENET),  # three values are needed
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), IMAGENET),  # none stated
    ],
)
def test_statistics_of_the_network_or_imagenets(network, expected) -> None:
    assert used(Extractor(network())) == (pytest.approx(expected[0]), pytest.approx(expected[1]))


def test_what_is_given_wins_and_parts_that_say_different_things_are_refused() -> None:
    extractor = Extractor(vit(), mean=MEAN, std=STD)
    assert used(extractor)[0] == pytest.approx(MEAN)
    assert extractor.statistics_source == "as given"
    assert used(Extractor(vit(), mean=MEAN))[1] == [0.5] * 3
    with pytest.raises(ValueError, match=r"parts of Wrapped were .*from networks.0.*from networks.1.*mean="):
        Extractor(Wrapped(vit(), Tower()))
    assert used(Extractor(Wrapped(vit(), vit())))[0] == [0.5] * 3
    assert used(Extractor(Wrapped(vit(), Tower()), mean=HALF, std=HALF))[0] == [0.5] * 3


# Files that say it


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A checkpoint of a network that was trained on images normalised with MEAN and STD."""
    module = ClassifierModule(Extractor(Tower(), mean=MEAN, std=STD))
    torch.save({"state_dict": module.state_dict()}, tmp_path / "best.ckpt")
    return tmp_path / "best.ckpt"


def plain(num_classes: int = 3) -> nn.Module:
    network = Tower(num_classes)
    del network.image_mean, network.image_std
    return network


def test_a_teachers_checkpoint_says_with_what_it_was_trained(fit, path, caplog) -> None:
    module = tmkd_module(plain(), plain(), teacher_checkpoint=str(path), **ALONE)
    fit(module, max_epochs=1)
    assert used(module.teacher.extractor) == (pytest.approx(MEAN), pytest.approx(STD))
    assert used(module.extractor)[0] == pytest.approx(IMAGENET_MEAN)  # the student's own
    assert "was trained on images normalised with mean (0.1, 0.2, 0.3)" in caplog.text


def read(path: Path) -> list[float]:
    """The mean of a network that has read a file."""
    network = plain()
    load_weights(network, path)
    return used(Extractor(network))[0]


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_a_file_says_it_to_a_bare_network_and_is_held_against_what_was_given(path, kind) -> None:
    assert read(path) == pytest.approx(MEAN)
    same, other = Extractor(plain(), mean=kind(MEAN), std=kind(STD)), Extractor(plain(), mean=kind(HALF), std=HALF)
    load_weights(same, path)
    assert same.statistics_source == "as given"
    with pytest.warns(UserWarning, match=r"mean \(0.1, 0.2, 0.3\).*but the Extractor of Tower was given others"):
        load_weights(other, path)
    assert used(other)[0] == [0.5] * 3


def test_an_export_says_it(tmp_path) -> None:
    export_student(Extractor(Tower()), tmp_path / "net.safetensors", format="state_dict", image_size=8)
    assert read(tmp_path / "net.safetensors") == pytest.approx(CLIP[0])


@pytest.mark.parametrize("mean", ["0.5,0.5", "[[1], [2], [3]]", "[" * 10_000, '["a", "b", "c"]', "null"])
def test_what_others_write_beside_weights_is_no_statement(tmp_path, mean) -> None:
    save_file(plain().state_dict(), tmp_path / "net.safetensors", {"mean": mean, "std": "[0.5, 0.5, 0.5]"})
    assert read(tmp_path / "net.safetensors") == pytest.approx(IMAGENET_MEAN)


def test_the_look_at_the_teacher_says_what_is_used(fit, loader, caplog) -> None:
    module = tmkd_module(Tower(), plain(), **ALONE)
    fit(module, val=loader(), max_epochs=1)
    assert "normalised with mean 0.4815, 0.4578, 0.4082 and std 0.2686, 0.2613, 0.2758 (from Tower)" in caplog.text
    assert module.extractor.statistics_source == "ImageNet's, as the network states none"


def test_what_was_loaded_is_said_to_come_from_the_file(path) -> None:
    module = ClassifierModule(plain())
    module.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    assert used(module.extractor) == (pytest.approx(MEAN), pytest.approx(STD))
    assert module.extractor.statistics_source == "from its checkpoint"


@pytest.mark.parametrize(
    "wrong", [{"mean": (0.5, 0.5)}, {"std": (0.5,)}, {"std": (0.5, 0.5, 0.0)}, {"mean": (0.0,) * 4}, {"mean": []}]
)
def test_wrong_statistics(wrong) -> None:
    with pytest.raises(ValueError, match="mean and std need three finite values each, std above 0"):
        Extractor(plain(), **wrong)


def test_a_cache_knows_with_what_the_teacher_was_normalised(fit, tmp_path) -> None:
    """Also where only the teacher's file says it; two runs of one module share a cache."""
    path, caches = str(tmp_path / "best.ckpt"), tmp_path / "cache"
    torch.save({"state_dict": ClassifierModule(Extractor(plain(10), mean=HALF, std=HALF)).state_dict()}, path)

    def train(module: TMKDModule) -> list[Path]:
        data = DigitsDataModule(train_samples=10, batch_size=5, image_size=8, augmentation_replicas=1)
        options = {"max_epochs": 1, "limit_val_batches": 0, "callbacks": [TeacherCache(str(caches))]}
        fit(module, datamodule=data, **options)
        return list(caches.iterdir())

    module = tmkd_module(plain(10), plain(10), teacher_checkpoint=path, **ALONE)
    for _ in range(2):
        (only,) = train(module)
    assert json.loads((only / "identity.json").read_text())["teacher"]["mean"] == [0.5] * 3
    other = Extractor(plain(10), mean=IMAGENET_MEAN, std=IMAGENET_STD)
    with pytest.warns(UserWarning, match="was given others"):
        assert len(train(tmkd_module(other, plain(10), teacher_checkpoint=path, **ALONE))) == 2
