"""What a run of the study measures, on photos of one colour each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from helpers.doc_commands import importing_from
from tmkd_lightning import Extractor
from tmkd_lightning.views import View

RESULTS = Path(__file__).parents[2] / "examples" / "results"
CLASSES = [f"class{number}" for number in range(10)]


@pytest.fixture
def train(monkeypatch) -> Iterator[ModuleType]:
    """With four photos of each class for student and teacher, and runs of two epochs."""
    with importing_from(RESULTS):
        import sets
        import train

        monkeypatch.setattr(sets, "TRAIN", slice(0, 4))
        monkeypatch.setattr(sets, "TEACHER", slice(4, 8))
        monkeypatch.setattr(sets.CIFAR10, "epochs", 2)
        monkeypatch.setattr(sets.CIFAR10, "teacher_epochs", 1)
        train.sets = sets
        yield train


def make_photos(root: Path, greys: dict[str, list[int]]) -> None:
    """Ten photos of each class to learn from, and test photos of these greys."""
    for folder, of_class in {"train": dict.fromkeys(greys, range(0, 250, 25)), "test": greys}.items():
        for name, values in of_class.items():
            (root / "cifar10" / folder / name).mkdir(parents=True)
            for number, grey in enumerate(values):
                Image.new("RGB", (32, 32), (grey, grey, grey)).save(root / "cifar10" / folder / name / f"{number}.png")


def test_accuracy_on_views_of_their_mean_and_of_any(train, tmp_path) -> None:
    """Says `bright` from a mean of 0.5 on: right of three in four; of the pale view always, right of two in four."""
    make_photos(tmp_path, {"bright": [200, 50], "dark": [50, 50]})
    data = train.sets.CIFAR10(tmp_path, tmp_path).data()
    head = nn.Linear(3, 2)
    head.weight.data = torch.tensor([[1.0, 1, 1], [-1, -1, -1]])
    head.bias.data = torch.tensor([-1.5, 1.5])
    network = Extractor(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), head), mean=(0, 0, 0), std=(1, 1, 1))
    pale = View("pale", lambda image: 1 - 0.5 * image, "a {class}")
    assert train.accuracy(network, data, ["rgb", pale]) == {
        "rgb": 75,
        "pale": 50,
        "mean of views": 50,  # 0.20 + 0.90 and 0.78 + 0.61 are both more than 1
        "any view": 100,
    }


def test_a_student_run_again_is_the_same_run(train, tmp_path) -> None:
    """From stored answers as from computed ones; another seed is another run. Shares are of the terms that pull."""
    make_photos(tmp_path, {name: [20 * number, 25 * number] for number, name in enumerate(CLASSES)})
    images = train.sets.CIFAR10(tmp_path, tmp_path)
    for array, values in {"vectors": np.eye(10, 512), "names": CLASSES}.items():
        np.savez(tmp_path / f"{array}.npz", **{array: values})
    sources = [tmp_path / "vectors.npz", tmp_path / "names.npz"]
    images = replace(images, texts=train.keep_vectors(sources, "vectors", "names", CLASSES, tmp_path))
    conditions = {condition.name: condition for condition in images.conditions}
    images.teacher("views")  # as the study does: what trains it draws random numbers
    first, again, other = (train.student(images, conditions["kd+seen"], seed) for seed in (0, 0, 1))
    assert first["logged"] == again["logged"]
    assert first["logged"]["train/loss"] != other["logged"]["train/loss"]
    assert first["top1"] == again["top1"]
    assert first["shares"].keys() == {"ce", "fusion", "kd", "feature", "text"}
    assert sum(first["shares"].values()) == pytest.approx(1)
    assert first["teacher"] == other["teacher"] is not None
    assert (first["seed"], first["epochs"], first["condition"]["name"]) == (0, 2, "kd+seen")
    alone = train.student(images, conditions["alone_twice_as_long"], 0)
    assert (alone["teacher"], alone["epochs"], alone["shares"]) == (None, 4, {})
