"""Shared by the benchmarks: networks and methods by name, a silent Trainer, a clock, and the record of the results."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from torchvision.models import resnet18, resnet50

from tmkd_lightning.distillers import CATKD, KD, RKD, SP, TeKAP
from tmkd_lightning.models import wrn_16_2, wrn_40_2

PAIRS = {"wrn": (wrn_40_2, wrn_16_2, 32), "resnet": (resnet50, resnet18, 224)}  # teacher, student, image size
METHODS = {"none": None, "kd": KD, "rkd": RKD, "sp": SP, "cat_kd": CATKD, "tekap": TeKAP}
VIEWS = ["rgb", "edge", "high_frequency"]
SEEN: dict[str, Any] = {"student_views": VIEWS, "student_view_shares": [0.4, 0.3, 0.3]}
PACKAGES = ("torch", "torchvision", "lightning", "kornia", "pillow")


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
