"""What TMKD adds to five methods on two sets of photos: the study of docs/results.md.

    python examples/results/study.py --root data --vectors clip_vectors.npz bird_vectors.npz --jobs 2

The root holds cifar10/train/<class>/ and cifar10/test/<class>/ with 32-pixel photos, and CUB_200_2011; it may have
weights: the birds' teachers and ImageNet's, which timm fetches otherwise. The vectors are one text embedding for each
class, repeated over the views. Trains and measures two teachers of each set, one of plain images and one of its views,
and trains every student with every seed, one thread each. A finished run is a file in `--output` and is not run again,
so a study that was stopped goes on. `report.py` makes tables of that folder. With `--tune`, tries settings on held-out
training images of CIFAR-10 instead, and never reads a test image; its files are in a folder of their own.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import cache, partial
from importlib.metadata import version
from itertools import product
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

import torch
import train
from conditions import TEACHERS, further, tuning
from photos import digest
from sets import SETS
from tqdm import tqdm

from tmkd_lightning.utils.files import atomic_write, check_writable


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", metavar="set", default=[*SETS], help=f"of {', '.join(SETS)}; all without it")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--vectors", type=Path, nargs="+", required=True, help=".npz files with vectors and names")
    parser.add_argument("--output", type=Path, default=Path("runs/results"), help="finished runs, in a folder a set")
    parser.add_argument("--work", type=Path, default=Path("runs/results_work"), help="for teachers, caches, copies")
    parser.add_argument("--precision", default="32-true", help="Lightning's; bf16-mixed pays where the CPU has it")
    parser.add_argument("--tune", action="store_true", help="on held-out images of cifar10")
    parser.add_argument("--seeds", type=_positive, default=5, help="how many")
    parser.add_argument("--only", nargs="+", metavar="CONDITION", help="by name, as kd+seen; without it, the study's")
    parser.add_argument("--jobs", type=_positive, default=1, help="runs at once")
    options = parser.parse_args()
    if unknown := set(options.sets) - set(SETS):
        parser.error(f"{sorted(unknown)} are none of the sets {sorted(SETS)}")
    if options.tune and options.sets != ["cifar10"]:
        parser.error("--tune is for cifar10, the only set that holds images out")
    try:
        studies = [Study(name, options) for name in options.sets]
    except (OSError, ValueError) as error:
        parser.error(str(error))
    try:
        for study in studies:
            study.run(options.jobs)
    except KeyboardInterrupt:
        sys.exit("stopped: the same command goes on")
    except BrokenProcessPool:
        sys.exit("a process was ended from outside, for want of memory perhaps: the same command goes on")


class Study:
    """What is run on a set; what it needs is read at once, so that what lacks is known before anything is trained."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        chosen = SETS[name]
        planned, more = (tuning(), []) if options.tune else (chosen.conditions, further())
        self.tried = {condition.name: condition for condition in (*more, *planned)}
        if unknown := set(options.only or ()) - set(self.tried):
            raise ValueError(f"--only: {sorted(unknown)} are none of {name}'s {sorted(self.tried)}")
        self.name, self.output = name, options.output / name / ("tuning" if options.tune else "")
        images = chosen(options.root, options.work, options.tune, options.precision)
        learnt = digest(images.data().files("train") + images.teacher_data().files("train"), options.root)
        measured = digest(images.data().files("test"), options.root)
        folder = options.work / f"{chosen.makes}_{options.precision}_{learnt}"
        for made in (self.output, folder):
            check_writable(made / "any")
        vectors = train.keep_vectors(options.vectors, *chosen.vectors, images.data().class_names, folder)
        self.images = replace(images, folder=folder, texts=vectors)
        self.record = {"precision": options.precision, "vectors": vectors, "photos": f"{learnt} {measured}"}
        self.seeds, self.only = range(options.seeds), options.only or [condition.name for condition in planned]
        self._check_finished()

    def _check_finished(self) -> None:
        """Refuses runs in the output that no run of this study could be a pair of."""
        for file in sorted(self.output.glob("*_*.json")):
            name, _, seed = file.stem.rpartition("_")
            if name not in self.tried and name != "teacher":
                continue
            found = train.read_run(file)
            ours, theirs = dict(self.record), found.get("record", {})
            if condition := self.tried.get(name):
                epochs = self.images.epochs * condition.longer
                ours |= {"condition": train.described(condition), "seed": int(seed), "epochs": epochs}
                theirs = theirs | found
            if differ := [key for key in ours if theirs.get(key, ours[key]) != ours[key]]:
                one = differ[0]
                raise ValueError(
                    f"{file} was run with the {one} {theirs[one]}, and this study has {ours[one]}: give a new --output"
                )
        for teacher in TEACHERS:
            measured, weights = self.output / f"teacher_{teacher}.json", self.images.teacher_weights(teacher)
            if measured.exists() and not weights.exists():
                raise ValueError(
                    f"{measured} is of a teacher whose weights {weights} are gone, and the students of a new one would "
                    "be no pairs of those that have run: give --work the folder that has them, or a new --output"
                )

    def run(self, jobs: int) -> None:
        """Trains the teachers, then the students."""
        teachers = {f"teacher_{name}": partial(train.teacher, self.images, name) for name in TEACHERS}
        students = {
            f"{name}_{seed}": partial(train.student, self.images, self.tried[name], seed)
            for seed, name in product(self.seeds, self.only)
        }
        for runs in (teachers, students):
            if failed := run_all(runs, self.output, jobs, self.record):
                sys.exit(f"{len(failed)} of {len(runs)} runs of {self.name} failed: {', '.join(failed)}")


def run_all(
    runs: Mapping[str, Callable[[], dict[str, Any]]], output: Path, jobs: int, record: dict[str, Any]
) -> list[str]:
    """Runs what is not finished, in order, several at once; writes a file for each, and returns those that failed."""
    left = {name: run for name, run in runs.items() if not (output / f"{name}.json").exists()}
    failed = []
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_begin) as pool:
        waiting = {pool.submit(_run, run, output / f"{name}.json", record): name for name, run in left.items()}
        for done in tqdm(as_completed(waiting), output.name, len(waiting)):
            error = done.exception()
            if isinstance(error, BrokenProcessPool):
                raise error
            if error is not None:
                tqdm.write(f"{waiting[done]} failed: {type(error).__name__}: {error}")
                failed.append(waiting[done])
    return failed


def _run(run: Callable[[], dict[str, Any]], file: Path, record: dict[str, Any]) -> None:
    """Runs, and writes what has come of it, in the process that ran: nothing else can lose it."""
    found = json.dumps({**run(), "record": record | versions()}, indent=1)
    with atomic_write(file) as written:
        written.write(found.encode())


@cache
def versions() -> dict[str, str]:
    """Of Python, the packages and the code, as this process has read them."""
    command, folder = ["git", "describe", "--always", "--dirty"], Path(__file__).parent
    try:
        commit = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:  # no git
        commit = ""
    packages = {name: version(name) for name in ("torch", "torchvision", "lightning")}
    return {"commit": commit or "unknown", "python": platform.python_version(), **packages}


def _begin() -> None:
    versions()  # of the code that was just read, which may be edited while it runs
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it, and with it all that is queued
    Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")


def _end_with_parent() -> None:
    parent_process().join()
    os._exit(1)


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


_positive.__name__ = "positive integer"  # as argparse calls it in its error


if __name__ == "__main__":
    main()
