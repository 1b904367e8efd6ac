"""Shared by the benchmarks: networks and methods by name, a silent Trainer, a clock, and the record of the results."""

from __future__ import annotations

import inspect
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from torchvision.models import mobilenet_v3_small, resnet18, resnet50

from tmkd_lightning import PAPER, distillers
from tmkd_lightning.distillers import KD, SDD, Distiller, FeatureKL, Sum
from tmkd_lightning.models import wrn_16_2, wrn_40_2

PAIRS = {  # teacher, student, image size
    "wrn": (wrn_40_2, wrn_16_2, 32),
    "resnet": (resnet50, resnet18, 224),
    "mobilenet": (resnet50, mobilenet_v3_small, 224),
    "mobilenet_96": (resnet50, mobilenet_v3_small, 96),  # a student that costs little more than loading its images
}
VIEWS = list(PAPER["views"])
PAPERS_METHODS = ("kd", "rkd", "sp", "cat_kd", "tekap")
TMKD: dict[str, Any] = {**PAPER, "fusion_objective": "label"}
SEEN: dict[str, Any] = {"student_views": VIEWS, "student_view_shares": [0.4, 0.3, 0.3]}
PACKAGES = ("torch", "torchvision", "lightning", "kornia", "pillow")


def shipped_methods() -> dict[str, type[Distiller]]:
    """Every base method of the library by the name of its term, without what only adds up or weighs others."""
    exported = [getattr(distillers, name) for name in distillers.__all__]
    kinds = [kind for kind in exported if inspect.isclass(kind) and issubclass(kind, Distiller)]
    kinds = [kind for kind in kinds if not inspect.isabstract(kind) and not issubclass(kind, (Sum, FeatureKL))]
    return {inspect.signature(kind).parameters["name"].default: kind for kind in kinds}


METHODS: dict[str, type[Distiller] | None] = {"none": None, **shipped_methods()}


def make_method(name: str) -> Distiller | None:
    """A method with its defaults; SDD has KD as its base."""
    kind = METHODS[name]
    return None if kind is None else kind(KD()) if kind is SDD else kind()


def silent_trainer(epochs: int, callbacks: Sequence[Any] = (), **options: Any) -> Trainer:
    """A Trainer on one device that logs, saves and prints nothing."""
    options = {"logger": False, "limit_val_batches": 0, "devices": 1, **options}
    silent: dict[str, Any] = dict.fromkeys(
        ["enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False
    )
    return Trainer(max_epochs=epochs, callbacks=list(callbacks), **silent, **options)


def sgd(params: Any, lr: float = 0.01) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=lr, momentum=0.9, weight_decay=5e-4)


def now() -> float:
    """Seconds, after everything queued on the device is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


CLOCKS: dict[str, Callable[[], float]] = {"wall": now, "cpu": time.process_time}


def report(name: str, rows: Sequence[dict[str, Any]], hidden: Sequence[str] = ()) -> None:
    """Prints rows as a table, and writes them with machine, versions and command to runs/<name>.json."""
    import pandas as pd  # here, so that it counts in no measurement of memory

    table = pd.DataFrame(rows).drop(columns=list(hidden))
    print(table.to_string(index=False, float_format="{:.5g}".format, na_rep="-"))
    machine = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
    }
    versions = {"python": platform.python_version()} | {package: version(package) for package in PACKAGES}
    Path("runs").mkdir(exist_ok=True)
    result = {"rows": rows, "machine": machine, "versions": versions, "command": sys.argv}
    Path(f"runs/{name}.json").write_text(json.dumps(result, indent=2))


def between(page: str, begin: str, end: str, text: str) -> str:
    """A page with another text between its two markers."""
    before, _, rest = page.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"the page lacks the lines {begin!r} and {end!r}, between which the table goes")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"
