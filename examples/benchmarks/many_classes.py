"""What 21,000 classes cost beside 100: a step, a validation batch, and the most memory.

    python examples/benchmarks/many_classes.py
    python examples/benchmarks/many_classes.py --classes 100 10000 --negatives 4096 --batch_size 64

Trains WRN-40-2 -> WRN-16-2 at 32 px through the Trainer with all three views, by TMKD's own terms: with equal weights
and no texts; with texts, contrasted with all classes; and with texts and some sampled classes. Beside them stands the
floor, which has the same heads: forward, backward and optimizer of the student alone and a forward of the teacher for
each view. Each is a process of its own, for the memory: of the device, or on a CPU the most that the process ever held,
the making of the text embeddings included. The last columns say how many times as much the most classes take as the
fewest. Times are the least of the steps of one run, on a CPU in seconds
of the processor; writes runs/many_classes.json.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from common import TMKD, report, sgd, silent_trainer
from common import now as wall_clock
from lightning.pytorch import Callback
from step import Floor
from torch.utils.data import DataLoader

from tmkd_lightning import TMKDModule
from tmkd_lightning.callbacks import PromptEmbeddings, TeacherAccuracyCheck
from tmkd_lightning.models import wrn_16_2, wrn_40_2
from tmkd_lightning.text import HashingTextEncoder

WARM_UP = 2
now = wall_clock if torch.cuda.is_available() else time.process_time  # which other work does not lengthen
MEAN: dict[str, Any] = {**TMKD, "fusion": "mean", "text_weight": 0}


class Clock(Callback):
    """Seconds of each step and of each validation batch, from one end to the next."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {"step": [], "validation": []}

    def on_train_epoch_start(self, *_: Any) -> None:
        self.mark = now()

    def on_train_batch_end(self, *_: Any) -> None:
        self._read("step")

    def on_validation_epoch_start(self, *_: Any) -> None:
        self.mark = now()

    def on_validation_batch_end(self, *_: Any) -> None:
        self._read("validation")

    def _read(self, what: str) -> None:
        end = now()
        self.seconds[what].append(end - self.mark)
        self.mark = end


def ours(networks: Any, batch: Any, steps: int, names: list[str], arguments: dict[str, Any]) -> dict[str, list[float]]:
    module = TMKDModule(*networks, optimizer=sgd, **arguments)
    clock, batches = Clock(), DataLoader([batch] * steps, batch_size=None)
    with tempfile.TemporaryDirectory() as folder:
        prompts = PromptEmbeddings(HashingTextEncoder(), class_names=names, cache_dir=folder)
        callbacks = [clock, TeacherAccuracyCheck(batches=0), prompts]
        trainer = silent_trainer(1, callbacks, limit_val_batches=None, num_sanity_val_steps=0)
        trainer.fit(module, batches, batches)
    return clock.seconds


def floor(networks: Any, batch: Any, steps: int) -> dict[str, list[float]]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    bare = Floor(*(network.to(device) for network in networks), views=3)
    image, label = (part.to(device) for part in batch)
    step = timed(lambda: bare.step(image, label), steps)
    bare.student.eval()
    with torch.inference_mode():
        validation = timed(lambda: bare.student((image.float() / 255 - bare.mean) / bare.std), steps)
    return {"step": step, "validation": validation}


def timed(call: Callable[[], object], steps: int) -> list[float]:
    seconds = []
    for _ in range(steps):
        start = now()
        call()
        seconds.append(now() - start)
    return seconds


def measure(classes: int, kind: str, batch_size: int, negatives: int, steps: int) -> dict[str, float]:
    """Milliseconds and megabytes, in this process."""
    torch.manual_seed(0)
    networks = wrn_40_2(num_classes=classes), wrn_16_2(num_classes=classes)
    image = torch.randint(256, (batch_size, 3, 32, 32), dtype=torch.uint8)
    batch = image, torch.randint(classes, (batch_size,))
    if kind == "floor":
        seconds = floor(networks, batch, steps + WARM_UP)
    else:
        arguments = {"mean": MEAN, "texts": TMKD, "texts, sampled": {**TMKD, "text_negatives": negatives}}[kind]
        names = [f"class {index}" for index in range(classes)]
        seconds = ours(networks, batch, steps + WARM_UP, names, arguments)
    if torch.cuda.is_available():
        most = torch.cuda.max_memory_allocated() / 1e6
    else:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return {f"{name}, ms": 1e3 * min(values[WARM_UP:]) for name, values in seconds.items()} | {"memory, MB": most}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--classes", type=int, nargs=2, default=[100, 21_000])
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--negatives", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--only", help=argparse.SUPPRESS)  # what one process measures, and its number of classes
    options = parser.parse_args()
    if options.only:
        measured = measure(options.classes[0], options.only, options.batch_size, options.negatives, options.steps)
        print(json.dumps(measured))
        return
    rows = []
    for kind in ("floor", "mean", "texts", "texts, sampled"):
        few, many = (in_its_own_process(classes, kind) for classes in options.classes)
        times = {f"{name.split(',')[0]} x": many[name] / few[name] for name in few}
        rows += [
            {"": kind, "classes": options.classes[0], **few},
            {"": kind, "classes": options.classes[1], **many, **times},
        ]
    report("many_classes", rows)


def in_its_own_process(classes: int, kind: str) -> dict[str, float]:
    command = [sys.executable, *sys.argv, "--classes", str(classes), str(classes), "--only", kind]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
