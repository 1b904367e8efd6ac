"""Kills training at random moments, resumes it, and holds every run that came to its end against an undisturbed one.

    python tests/integration/kill_and_resume.py --kills 200

Imports once and forks a process for every attempt, so that an attempt costs what it trains. Each run distils on digits
with noise, dropout, a WeightNet and best and last checkpoints, and is killed (SIGKILL) again and again until it ends.
A run counts as exact if its weights, its best checkpoint's and every row of its curve are those of the undisturbed run.
"""

import argparse
import logging
import os
import random
import signal
import tempfile
import time
import warnings
from pathlib import Path

import torch

from helpers.resume_run import seeded, tmkd, train
from tmkd_lightning.figures.curves import read_curve


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, default in (("--kills", 200), ("--epochs", 8), ("--seed", 0)):
        parser.add_argument(name, type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(1)
    draw, kills, runs = random.Random(options.seed), 0, 0
    with tempfile.TemporaryDirectory() as root:
        whole, start = Path(root) / "undisturbed", time.monotonic()
        if not attempt(whole, options.epochs, 600):
            raise SystemExit("the undisturbed run did not end")
        seconds = time.monotonic() - start
        while kills < options.kills:
            folder, ended = Path(root) / f"run_{runs}", False
            while not ended:
                ended = attempt(folder, options.epochs, draw.uniform(0, 0.4 * seconds))
                kills += not ended
            exact = same(folder, whole)
            runs += 1
            print(f"run {runs}: {'exact' if exact else 'DIFFERS'}; {kills} kills so far", flush=True)
            if not exact:
                raise SystemExit(1)
    print(f"{kills} kills, {runs} runs, all exact")


def attempt(folder: Path, epochs: int, patience: float) -> bool:
    """Goes on in a process of its own until it ends or the patience does; tells whether it ended."""
    child = os.fork()
    if child == 0:
        _go_on(folder, epochs)
    begin = time.monotonic()
    while time.monotonic() - begin < patience:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if status:
                raise SystemExit(f"an attempt in {folder} failed by itself")
            return True
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def _go_on(folder: Path, epochs: int) -> None:
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        last = folder / "last.ckpt"
        module = seeded(tmkd, 7 if not last.exists() else 8)
        train(module, folder, epochs=epochs, resume=last if last.exists() else None)
        torch.save(module.state_dict(), folder / "ended.pt")
        os._exit(0)
    except BaseException as error:
        print(repr(error), flush=True)
        os._exit(1)


def same(folder: Path, whole: Path) -> bool:
    """Whether weights, best checkpoint and curve agree to the last bit."""
    ended, wanted = (torch.load(path / "ended.pt", weights_only=True) for path in (folder, whole))
    best, wanted_best = (torch.load(path / "best.ckpt", weights_only=True) for path in (folder, whole))
    weights = all(ended[name].equal(value) for name, value in wanted.items())
    bests = all(best["state_dict"][name].equal(value) for name, value in wanted_best["state_dict"].items())
    return weights and bests and best["epoch"] == wanted_best["epoch"] and read_curve(folder) == read_curve(whole)


if __name__ == "__main__":
    main()
