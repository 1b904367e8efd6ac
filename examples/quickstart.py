"""Trains a teacher on digits, then a small student alone, by KD and by the defaults, through the command line.

Each with three seeds, and one student by TMKD; several students at once, with a thread each. Ends with
runs/quickstart.png, all figures of the first seed on one page, a table of test accuracies, and what the default student
gains over its teacher, with its mistakes on a page, runs/quickstart.html.
Run it from anywhere with `python examples/quickstart.py`; it writes to ./runs.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import active_children, get_context
from pathlib import Path
from statistics import mean, stdev

import torch
from lightning.pytorch import Trainer

from tmkd_lightning import ClassifierModule, TMKDModule
from tmkd_lightning.cli.main import main as tmkd
from tmkd_lightning.data import DigitsDataModule

EXAMPLES = Path(__file__).parent
SEEDS = (2, 1, 0)  # each writes over the files of the one before: those of seed 0 stay
STUDENTS = {
    "student alone": (ClassifierModule, "digits_student", SEEDS),
    "KD": (TMKDModule, "digits_kd", SEEDS),
    "default": (TMKDModule, "digits_default", SEEDS),
    "TMKD, one seed": (TMKDModule, "digits_tmkd", SEEDS[-1:]),
}


def main() -> None:
    torch.set_num_threads(1)  # for networks this small, handing work to a second thread costs what it gains
    begun = time.monotonic()
    found = {"teacher, one seed": [train("teacher", ClassifierModule, "digits_teacher", 0)], **train_students()}
    draw("runs/quickstart.png")
    print("\n599 test digits        top-1, best epoch   top-1, last epoch")
    for row, accuracies in found.items():
        print(f"{row:<22}", *(f"{summary([one[which] for one in accuracies]):>18}" for which in (0, 1)))
    print(
        f"Means and standard deviations over {len(SEEDS)} seeds: differences of two points are noise. The best epoch\n"
        "is the best on 299 validation digits. By default KD has a strong feature loss beside it. The words of TMKD's\n"
        f"text teacher come from a stand-in without visual meaning. {time.monotonic() - begun:.0f} s so far. Figure: "
        "runs/quickstart.png\n\n=== What did I gain? tmkd report --checkpoint runs/digits_default/best.ckpt ==="
    )
    report = ["--checkpoint", "runs/digits_default/best.ckpt", "--output", "runs/quickstart"]
    report += ["--html", "runs/quickstart.html"]
    tmkd(["report", *report, "--accelerator", "cpu"])


def train_students() -> dict[str, list[tuple[float, float]]]:
    """Trains each row of students in a process of its own; returns the accuracies of its seeds."""
    print("\n=== Students, several at once: what they print is in runs/digits_*.log ===")
    with ProcessPoolExecutor(min(len(STUDENTS), os.cpu_count() or 1), get_context("spawn")) as pool:
        try:
            waiting = {pool.submit(train_seeds, row, *run): row for row, run in STUDENTS.items()}
            for done in as_completed(waiting):
                print(f"{waiting[done]}: top-1 after the last epoch {summary([last for _, last in done.result()])}")
        except BaseException:  # Ctrl-C too: the others would be waited for
            for child in active_children():
                child.kill()
            raise
    return {row: done.result() for done, row in waiting.items()}


def train_seeds(row: str, module: type, name: str, seeds: tuple[int, ...]) -> list[tuple[float, float]]:
    """Test accuracies of a student, for each seed; all that is printed goes to a log."""
    torch.set_num_threads(1)
    path = f"runs/{name}.log"
    with open(path, "w") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    try:
        return [train(row, module, name, seed) for seed in seeds]
    except SystemExit as error:  # of the command line, which has printed why
        raise RuntimeError(f"{row} was not trained: see {path}") from error


def train(row: str, module: type, name: str, seed: int) -> tuple[float, float]:
    """Test accuracies in %, of the best and of the last epoch."""
    print(f"\n=== {row}: tmkd fit --config examples/{name}.yaml --seed_everything {seed} ===")
    seeds = ["--seed_everything", str(seed), "--data.seed", str(seed)]
    tmkd(["fit", "--config", str(EXAMPLES / f"{name}.yaml"), "--trainer.check_val_every_n_epoch", "4", *seeds])
    return accuracy(module, name, "best"), accuracy(module, name, "last")


def summary(values: list[float]) -> str:
    """Mean and standard deviation."""
    return f"{values[0]:.1f}" if len(values) == 1 else f"{mean(values):.1f} ± {stdev(values):.1f}"


def accuracy(module: type, name: str, which: str) -> float:
    """Top-1 on the test split, in %."""
    trained = module.load_from_checkpoint(f"runs/{name}/{which}.ckpt", weights_only=True)
    data = DigitsDataModule(image_size=16, batch_size=200)
    trainer = Trainer(logger=False, enable_progress_bar=False, enable_checkpointing=False, accelerator="cpu")
    return 100 * trainer.test(trained, datamodule=data, verbose=False)[0]["test/top1"]


def draw(page: str) -> None:
    """All figures of the TMKD run beside its teacher and the KD run: files in runs/figures, and one page."""
    runs = ["--checkpoint", "runs/digits_tmkd/best.ckpt", "--against", "runs/digits_kd/best.ckpt"]
    images = ["--split", "test", "--examples", "3"]
    tmkd(["figures", *runs, *images, "--output", "runs/figures", "--formats", "[png]", "--page", page])


if __name__ == "__main__":
    main()
