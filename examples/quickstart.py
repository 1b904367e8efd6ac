"""Trains a teacher on digits, then a small student alone, with KD and with TMKD, through the command line.

Ends with a table of test accuracies, and with runs/quickstart.png: one image's three views beside the fusion weights
over training. Run it from anywhere with `python examples/quickstart.py`; it writes to ./runs.
"""

from __future__ import annotations

import csv
import time
from pathlib import Path

import matplotlib
import torch

matplotlib.use("Agg")  # no screen is needed
import matplotlib.pyplot as plt
from lightning.pytorch import Trainer

from tmkd_lightning import ClassifierModule, MultiView, TMKDModule
from tmkd_lightning.cli import main as tmkd
from tmkd_lightning.data import DigitsDataModule

EXAMPLES = Path(__file__).parent
RUNS = {
    "teacher": (ClassifierModule, "digits_teacher"),
    "student alone": (ClassifierModule, "digits_student"),
    "KD": (TMKDModule, "digits_kd"),
    "TMKD": (TMKDModule, "digits_tmkd"),
}
VIEW_COLOURS = {"rgb": "#0072B2", "edge": "#D55E00", "high_frequency": "#009E73"}  # told apart by everybody


def main() -> None:
    torch.set_num_threads(1)  # for networks this small, handing work to a second thread costs what it gains
    rows = []
    for row, (module, name) in RUNS.items():
        print(f"\n=== {row}: tmkd fit --config examples/{name}.yaml ===")
        start = time.monotonic()
        tmkd(["fit", "--config", str(EXAMPLES / f"{name}.yaml")])
        seconds = time.monotonic() - start
        rows.append((row, *(accuracy(module, name, which) for which in ("best", "last")), seconds))
    draw(Path("runs/quickstart.png"))
    print("\n599 test digits       top-1, best epoch   top-1, last epoch   wall time")
    for row, best, last, seconds in rows:
        print(f"{row:<22}{best:>17.1%} {last:>19.1%} {seconds:>9.0f} s")
    print("The best epoch is the best on 299 validation digits. One seed: differences of a few points are noise.")
    print("The words of TMKD's text teacher come from a stand-in without visual meaning. Figure: runs/quickstart.png")


def accuracy(module: type, name: str, which: str) -> float:
    """Top-1 on the test split."""
    trained = module.load_from_checkpoint(f"runs/{name}/{which}.ckpt", weights_only=True)
    data = DigitsDataModule(image_size=16, batch_size=200)
    trainer = Trainer(logger=False, enable_progress_bar=False, enable_checkpointing=False, accelerator="cpu")
    return trainer.test(trained, datamodule=data, verbose=False)[0]["test/top1"]


def draw(path: Path) -> None:
    """One digit in its three views beside the mean fusion weights of each epoch."""
    data = DigitsDataModule(image_size=16)
    scan, label = data.samples("test")[1]
    image = data.eval_transform(scan)
    views = MultiView()
    figure, axes = plt.subplots(1, 4, figsize=(12, 3), width_ratios=[1, 1, 1, 1.8], layout="constrained")
    for axis, name, seen in zip(axes, views.names, views(image[None]), strict=False):
        axis.imshow(seen[0].permute(1, 2, 0))
        axis.set_title(name.replace("_", " "))
        axis.axis("off")
    newest = max(Path("runs/digits_tmkd").glob("version_*/metrics.csv"), key=lambda file: file.stat().st_mtime)
    history = list(csv.DictReader(newest.read_text().splitlines()))
    for name in views.names:
        weights = [(int(row["epoch"]), float(row[f"fusion/{name}"])) for row in history if row[f"fusion/{name}"]]
        axes[3].plot(*zip(*weights, strict=True), label=name.replace("_", " "), color=VIEW_COLOURS[name])
    axes[3].set(xlabel="epoch", ylabel="mean fusion weight", ylim=(0, 1))
    axes[3].legend()
    figure.suptitle(f"A {data.class_phrases[label]} as the teacher sees it, and how much each view counts (seed 0)")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
