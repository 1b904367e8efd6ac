"""Trains a teacher on digits, then a small student alone, with KD and with TMKD, through the command line.

Ends with runs/quickstart.png, all figures on one page, a table of test accuracies, and what the student of TMKD gains
over its teacher, with its mistakes on a page, runs/quickstart.html. Run it from anywhere with
`python examples/quickstart.py`; it writes to ./runs.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from lightning.pytorch import Trainer

from tmkd_lightning import ClassifierModule, TMKDModule
from tmkd_lightning.cli.main import main as tmkd
from tmkd_lightning.data import DigitsDataModule

EXAMPLES = Path(__file__).parent
RUNS = {
    "teacher": (ClassifierModule, "digits_teacher"),
    "student alone": (ClassifierModule, "digits_student"),
    "KD": (TMKDModule, "digits_kd"),
    "TMKD": (TMKDModule, "digits_tmkd"),
}


def main() -> None:
    torch.set_num_threads(1)  # for networks this small, handing work to a second thread costs what it gains
    rows = []
    for row, (module, name) in RUNS.items():
        print(f"\n=== {row}: tmkd fit --config examples/{name}.yaml ===")
        start = time.monotonic()
        tmkd(["fit", "--config", str(EXAMPLES / f"{name}.yaml")])
        seconds = time.monotonic() - start
        rows.append((row, *(accuracy(module, name, which) for which in ("best", "last")), seconds))
    draw("runs/quickstart.png")
    print("\n599 test digits       top-1, best epoch   top-1, last epoch   wall time")
    for row, best, last, seconds in rows:
        print(f"{row:<22}{best:>17.1%} {last:>19.1%} {seconds:>9.0f} s")
    print("The best epoch is the best on 299 validation digits. One seed: differences of a few points are noise.")
    print("The words of TMKD's text teacher come from a stand-in without visual meaning. Figure: runs/quickstart.png")
    print("\n=== What did I gain? tmkd report --checkpoint runs/digits_tmkd/best.ckpt ===")
    report = ["--checkpoint", "runs/digits_tmkd/best.ckpt", "--output", "runs/quickstart"]
    report += ["--html", "runs/quickstart.html"]
    tmkd(["report", *report, "--accelerator", "cpu"])


def accuracy(module: type, name: str, which: str) -> float:
    """Top-1 on the test split."""
    trained = module.load_from_checkpoint(f"runs/{name}/{which}.ckpt", weights_only=True)
    data = DigitsDataModule(image_size=16, batch_size=200)
    trainer = Trainer(logger=False, enable_progress_bar=False, enable_checkpointing=False, accelerator="cpu")
    return trainer.test(trained, datamodule=data, verbose=False)[0]["test/top1"]


def draw(page: str) -> None:
    """All figures of the TMKD run beside its teacher and the KD run: files in runs/figures, and one page."""
    runs = ["--checkpoint", "runs/digits_tmkd/best.ckpt", "--against", "runs/digits_kd/best.ckpt"]
    images = ["--split", "test", "--examples", "3"]
    tmkd(["figures", *runs, *images, "--output", "runs/figures", "--formats", "[png]", "--page", page])


if __name__ == "__main__":
    main()
