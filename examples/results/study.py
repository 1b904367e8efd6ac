"""What TMKD adds to five methods on CIFAR-10 (JPEG) with genuine CLIP vectors: the study of docs/results.md.

    python examples/results/study.py --root data/cifar10 --vectors clip.npz --jobs 2

The root holds train/<class>/ and test/<class>/ with 32-pixel photos; the vectors are one CLIP embedding for each class,
repeated over the views. Trains two teachers, one on plain images and one on its views, then every student with every
seed, one thread each. A finished run is a file in `--output` and is not run again, so a study that was stopped goes on.
With `--tune`, tries settings on held-out training images instead, and never reads a test image; its files are in a
folder of their own.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import subprocess
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import train
from conditions import TEACHERS, conditions, tuning
from tqdm import tqdm

from tmkd_lightning.utils.files import atomic_write


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--vectors", type=Path, required=True, help="an .npz file")
    parser.add_argument("--array", default="cifar10", help="its array of class vectors; <array>_names are the classes")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("cifar10"), help="finished runs")
    parser.add_argument("--work", type=Path, default=Path("runs/results"), help="teachers' weights, caches")
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--teacher_epochs", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument(
        "--precision", default="32-true", help="of the teachers' training; bf16-mixed pays where the CPU has it"
    )
    options = parser.parse_args()
    if options.tune:
        options.output /= "tuning"
    for folder in (options.output, options.work):
        folder.mkdir(parents=True, exist_ok=True)
    train.keep_vectors(options.vectors, options.array, options.work)
    setting = train.Setting(
        options.work, options.root, options.epochs, options.teacher_epochs, options.tune, options.precision
    )
    record = {"epochs": options.epochs, "precision": options.precision, **versions()}
    run_all({f"teacher_{name}": partial(train.teacher, setting, name) for name in TEACHERS}, options, record)
    tried = tuning() if options.tune else conditions()
    runs = {
        f"{each.name}_{seed}": partial(train.student, setting, each, seed)
        for seed in range(options.seeds)
        for each in tried
    }
    run_all(runs, options, record)


def run_all(runs: dict[str, Callable[[], dict[str, Any]]], options: argparse.Namespace, record: dict[str, Any]) -> None:
    """Runs what is not finished, in order, several at once; writes a file for each."""
    left = {name: run for name, run in runs.items() if not (options.output / f"{name}.json").exists()}
    with ProcessPoolExecutor(options.jobs, get_context("spawn"), initializer=_quiet) as pool:
        waiting = {pool.submit(run): name for name, run in left.items()}
        for done in tqdm(as_completed(waiting), total=len(waiting)):
            if done.exception() is not None:
                print(f"{waiting[done]} failed: {done.exception()!r}", flush=True)
                continue
            with atomic_write(options.output / f"{waiting[done]}.json") as file:
                file.write(json.dumps({**done.result(), "record": record}, indent=1).encode())


def versions() -> dict[str, str]:
    """Of Python, the packages and the code."""
    folder = Path(__file__).parent
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=folder, capture_output=True, text=True, check=True
    )
    packages = {name: version(name) for name in ("torch", "torchvision", "lightning")}
    return {"commit": commit.stdout.strip(), "python": platform.python_version(), **packages}


def _quiet() -> None:
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")


if __name__ == "__main__":
    main()
