"""The run on CIFAR-10 of `make gpu`."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import to_pil_image

CIFAR10 = Path(__file__).parents[2] / "examples" / "benchmarks" / "cifar10.py"


def make_images(root: Path) -> None:
    """Eight images of each of two classes to train on, and two to test on."""
    torch.manual_seed(0)
    for split, count in (("train", 8), ("test", 2)):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                image: Image.Image = to_pil_image(torch.randint(256, (3, 32, 32), dtype=torch.uint8))
                image.save(root / split / name / f"{index}.jpg")


def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_images(tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    options = ["--epochs", "2", "--batches", "1", "--batch_size", "2", "--workers", "0"]
    monkeypatch.setattr(sys, "argv", ["cifar10.py", "--root", str(tmp_path / "images"), *options])
    monkeypatch.syspath_prepend(CIFAR10.parent)  # as Python does for a script
    runpy.run_path(str(CIFAR10), run_name="__main__")
    rows = json.loads((tmp_path / "runs" / "cifar10.json").read_text())["rows"]
    assert [row["network"] for row in rows] == ["teacher, on its views", "student alone", "student by KD + TMKD"]
    assert all(row["top-1 %"] in (0, 50, 100) for row in rows)  # of one batch of two images
    assert all(row["seconds, first epoch"] > 0 < row["seconds, later ones"] for row in rows)
