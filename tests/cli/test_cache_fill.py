"""``tmkd cache fill``: its rows are those of a run, each once, in parts, by two processes, killed or not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import LightningDataModule
from torch import nn

from helpers.subprocess_run import wait_for
from helpers.tiny import Net, tmkd_module
from tmkd_lightning import TMKDModule
from tmkd_lightning.callbacks import TeacherCache
from tmkd_lightning.cli import cache_fill
from tmkd_lightning.cli.main import main
from tmkd_lightning.data import DigitsDataModule
from tmkd_lightning.teacher.cache import CacheError
from tmkd_lightning.teacher.cache.array_file import ArrayFile

IMAGES, REPLICAS = 40, 3
ROWS = IMAGES * REPLICAS
LOOK = 2  # images that a copy of the teacher is asked for, to know which cache is its


class Counting(nn.Module):
    """A teacher that writes how many images it was asked for to a file, of all processes."""

    def __init__(self, file: str | None = None) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.net, self.file = Net(16, num_classes=10), file

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if self.file is not None:
            with open(self.file, "a") as file:
                file.write(f"{len(image)}\n")
        return self.net(image)


def asked() -> int:
    """Images that teachers of this folder were asked for since the last call."""
    file = Path("asked")
    numbers = [int(line) for line in file.read_text().split()] if file.exists() else []
    file.unlink(missing_ok=True)
    return sum(numbers)


@pytest.fixture
def config(tmp_path, monkeypatch) -> dict[str, Any]:
    """Of a distillation of digits with two views and texts by CLIP, which filling never asks for."""
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Counting().state_dict()}, "teacher.ckpt")
    cache = {"class_path": "tmkd_lightning.callbacks.TeacherCache", "init_args": {"directory": "cache"}}
    config = {
        "trainer": {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "callbacks": [cache]},
        "model": {
            "class_path": "tmkd_lightning.TMKDModule",
            "init_args": {
                "teacher": {"class_path": f"{__name__}.Counting", "init_args": {"file": "asked"}},
                "teacher_checkpoint": "teacher.ckpt",
                "student": {"class_path": "helpers.tiny.Net", "init_args": {"num_classes": 10}},
                "views": ["rgb", "edge"],
                "text_weight": 0.8,
            },
        },
        "data": {
            "class_path": "tmkd_lightning.data.DigitsDataModule",
            "init_args": {"image_size": 8, "train_samples": IMAGES, "batch_size": 7, "num_workers": 0},
        },
    }
    config["data"]["init_args"]["augmentation_replicas"] = REPLICAS
    Path("run.yaml").write_text(yaml.safe_dump(config))
    return config


def fill(*options: str) -> None:
    main(["cache", "fill", "--config", "run.yaml", *options])


def arrays(directory: str = "cache") -> dict[str, np.ndarray]:
    """All rows of the one cache, NaN or 0 where none is written."""
    return {path.name: np.load(path) for path in Path(directory).glob("*/*.npy")}


def equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    """Of other batches, the last digits of half precision may be others, and so their checksums."""
    values = {name: value for name, value in one.items() if not name.endswith("written.npy")}
    return one.keys() == other.keys() and all(
        np.allclose(value, other[name], rtol=2e-3, atol=2e-3) for name, value in values.items()
    )


def test_the_rows_are_those_of_a_run(config) -> None:
    """Three epochs of three replicas; the fusion is a mean, so that no texts are needed."""
    fill()
    assert asked() >= 2 * ROWS
    filled = arrays()
    assert all((value != 0).all() for name, value in filled.items() if name.endswith("written.npy"))
    quick = ["--model.fusion", "mean", "--model.text_weight", "0", "--trainer.limit_val_batches", "0"]
    quick += ["--trainer.enable_checkpointing", "false", "--trainer.enable_model_summary", "false"]
    main(["fit", "--config", "run.yaml", "--trainer.max_epochs", "1", *quick])
    assert asked() <= LOOK  # it finds the same cache, and the teacher does not run
    Path("cache").rename("filled")
    main(["fit", "--config", "run.yaml", "--trainer.max_epochs", str(REPLICAS), *quick])
    ours, theirs = ({path.parent.name for path in Path(each).glob("*/*.npy")} for each in ("filled", "cache"))
    assert ours == theirs
    assert equal(arrays(), filled)
    pixels = "pixels.uint32.npy"
    assert np.array_equal(arrays()[pixels], filled[pixels])


def test_parts_are_whole_together_and_nothing_is_computed_twice(config, caplog) -> None:
    fill("--shard", "1/1")
    asked()
    Path("cache").rename("whole")
    for part in (2, 3, 1):
        fill("--shard", f"{part}/3", "--batch_size", "9")
        assert 2 * ROWS / 3 <= asked() < 2 * ROWS / 3 + 40  # and what the look at the layers asks
        written = next(Path("cache").glob("*/pixels.uint32.written.npy"))
        assert np.load(written)[ROWS // 3 * (part - 1) : ROWS // 3 * part].all()
    assert equal(arrays(), arrays("whole"))
    ArrayFile(next(Path("cache").glob("*/embedding.float16.npy"))).erase([5, 77])
    fill()
    assert 4 <= asked() < 44
    assert equal(arrays(), arrays("whole"))
    with caplog.at_level("INFO"):  # another test may have asked for less
        fill()
    assert asked() <= LOOK
    assert f"{ROWS} of {ROWS} rows are there: the teacher will not run" in caplog.text


def command(*options: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, "-m", "tmkd_lightning", "cache", "fill", "--config", "run.yaml", *options]
    with open("log", "w") as log:
        return subprocess.Popen(words, env=environment, stdout=log, stderr=log)


@pytest.mark.slow
def test_two_processes_and_one_that_is_killed(config) -> None:
    """A kill in the middle costs the batch in flight at most; two processes fill what is left."""
    killed = command("--data.augmentation_replicas", "200", "--data.batch_size", "2")
    try:
        wait_for(lambda: Path("asked").exists() and len(Path("asked").read_text().split()) > 60, killed)
    finally:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    before = asked()
    assert before < 2 * 200 * IMAGES  # it was not over
    (path,) = Path("cache").glob("*/pixels.uint32.npy")
    there = ArrayFile(path).written
    assert there >= (before - 40) // 2 - 2  # but for the look at the layers, all but the last batch
    both = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.batch_size", "64"]
    rest = command("--data.augmentation_replicas", "200", *both)
    assert rest.wait(timeout=240) == 0, Path("log").read_text()
    after = asked()
    assert 2 * (200 * IMAGES - there) <= after <= 2 * (200 * IMAGES - there) + 80
    assert all(ArrayFile(path).complete for path in Path("cache").glob("*/[!h]*[!n].npy") if "written" not in path.name)


def test_what_cannot_be_filled_is_said(config, capsys, monkeypatch) -> None:
    cases = [
        (["--shard", "0/2"], ValueError, r"shard must be i/N with i from 1 to N, such as 1/4, got '0/2'"),
        (["--shard", "3/2"], ValueError, "got '3/2'"),
        (["--shard", "half"], ValueError, "got 'half'"),
        (["--batch_size", "0"], ValueError, "batch_size must be"),
        (["--trainer.callbacks", "[]"], ValueError, "no TeacherCache to fill among the callbacks"),
        (["--data.augmentation_replicas", "0"], ValueError, "needs images that come again"),
        (["--model.mix", f"{__name__}.swap"], ValueError, "mix makes new ones at every step: leave one of the two out"),
        (["--model.teacher_checkpoint", "other.ckpt"], FileNotFoundError, "no teacher_checkpoint at other.ckpt"),
        (
            ["--model", "tmkd_lightning.ClassifierModule", "--model.network", "helpers.tiny.Net"],
            TypeError,
            "ClassifierM",
        ),
    ]
    for options, kind, message in cases:
        with pytest.raises(kind, match=message):
            fill(*options)
    assert not Path("cache").exists()


def test_a_setup_of_your_own_runs_and_weights_that_the_file_replaces_are_not_fetched(config, monkeypatch) -> None:
    def refuse(*args: Any) -> None:
        raise AssertionError("the teacher's own pretrained weights were read")

    monkeypatch.setattr(TMKDModule, "load_pretrained", refuse)
    config["data"]["class_path"] = f"{__name__}.Late"
    Path("run.yaml").write_text(yaml.safe_dump(config))
    fill()
    assert all((value != 0).all() for name, value in arrays().items() if name.endswith("written.npy"))


def test_a_head_that_is_gone_is_made_anew(config) -> None:
    """As the message about a damaged one promises, though all rows are there."""
    fill()
    (head,) = Path("cache").glob("*/head.npz")
    before = dict(np.load(head))
    head.unlink()
    asked()
    fill()
    assert asked() < 2 * ROWS
    after = np.load(head)
    assert before.keys() == set(after)
    assert all(np.array_equal(value, after[name]) for name, value in before.items())


class Late(DigitsDataModule):
    """Knows its images after `setup` alone."""

    def setup(self, stage: str) -> None:
        self.found = super().samples
        super().setup(stage)

    def samples(self, split: str) -> Any:
        return self.found(split)


class Logged(DigitsDataModule):
    """Writes a line for each training image that is opened."""

    def samples(self, split: str) -> Any:
        samples = super().samples(split)
        return Log(samples) if split == "train" else samples


class Log(list):
    def __getitem__(self, index: int) -> Any:
        with open("opened", "a") as file:
            file.write("1\n")
        return super().__getitem__(index)


def opened() -> int:
    file = Path("opened")
    count = len(file.read_text().split()) if file.exists() else 0
    file.unlink(missing_ok=True)
    return count


def test_images_are_filled_too(config, capsys, caplog, monkeypatch) -> None:
    """Beside outputs that are there, without the teacher; then those of single rows."""
    fill()
    asked()
    config["data"]["class_path"] = f"{__name__}.Logged"
    config["trainer"]["callbacks"][0]["init_args"]["images"] = True
    Path("run.yaml").write_text(yaml.safe_dump(config))
    caplog.clear()
    fill("--shard", "1/2")
    assert f"{ROWS // 2} images stored by this process" in caplog.text
    seen = opened() - ROWS // 2  # what the look at the data opened
    assert asked() <= LOOK
    filled = arrays()
    written = filled["image.uint8.written.npy"]
    assert (written[: ROWS // 2] != 0).all()
    assert not written[ROWS // 2 :].any()
    fill("--shard", "2/2", "--data.num_workers", "1")
    image, label = arrays()["image.uint8.npy"], arrays()["label.int64.npy"]
    data = DigitsDataModule(image_size=8, train_samples=IMAGES, augmentation_replicas=REPLICAS)
    data.setup("fit")
    drawn = [data._datasets["train"].draw(*divmod(row, IMAGES)) for row in range(ROWS)]
    assert np.array_equal(image, torch.stack([image for image, _ in drawn]).numpy())
    assert label.tolist() == [label for _, label in drawn]
    ArrayFile(next(Path("cache").glob("*/image.uint8.npy"))).erase([5, 77])
    main(["cache", "list", "--directory", "cache"])
    assert f"image.uint8              {ROWS - 2} of {ROWS} rows" in capsys.readouterr().out
    opened(), asked()
    fill()
    assert opened() == seen + 2
    assert np.array_equal(arrays()["image.uint8.npy"], image)
    assert asked() <= LOOK
    ArrayFile(next(Path("cache").glob("*/image.uint8.npy"))).erase([5])
    monkeypatch.setattr(os, "pwrite", full_disk)
    with pytest.warns(UserWarning, match="No more images"), pytest.raises(CacheError, match="what is written stays"):
        fill()


def full_disk(*args: Any) -> int:
    raise OSError(28, "No space left on device")


def swap(images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return images.flip(0), labels


class Foreign(LightningDataModule):
    def train_dataloader(self) -> Any:
        return []


def test_other_data_and_a_full_disk(config, fit, monkeypatch) -> None:
    module = tmkd_module(Counting(), Net(8, 10), views=["rgb"], text_weight=0)
    with pytest.raises(ValueError, match="Foreign is none of tmkd_lightning's: let the first epochs of a run fill it"):
        cache_fill.fill(cache_fill.FillTrainer(), module, Foreign(), TeacherCache("cache"))
    written = os.pwrite

    def full(descriptor: int, content: Any, offset: int) -> int:
        if offset > 5_000:
            raise OSError(28, "No space left on device")
        return written(descriptor, content, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.warns(UserWarning, match="No space left"), pytest.raises(CacheError, match="what is written stays"):
        fill()
    monkeypatch.undo()
