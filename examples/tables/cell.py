"""Trains one cell and tests its best and its last checkpoint; run.py starts it as ``python cell.py FOLDER``.

A cell that was killed resumes from last.ckpt. done.json is written at the end, in one piece.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from tmkd_lightning.cli.main import main as tmkd


def main(folder: Path) -> None:
    with FileLock(folder / "lock"):  # two runners, or a process that outlived its runner
        if (folder / "done.json").exists():
            return
        if not (folder / "trained").exists():
            checkpoint = folder / "last.ckpt"
            resume = ["--ckpt_path", str(checkpoint)] if checkpoint.exists() else []
            tmkd(["fit", "--config", str(folder / "config.yaml"), *resume])
            (folder / "trained").touch()
        result = json.loads((folder / "cell.json").read_text()) | {
            name: test(folder, name) for name in ("best", "last")
        }
        (folder / "done.tmp").write_text(json.dumps(result, indent=1))
        (folder / "done.tmp").replace(folder / "done.json")


def test(folder: Path, name: str) -> dict[str, Any]:
    """Epoch and test metrics of a checkpoint."""
    checkpoint, version = folder / f"{name}.ckpt", f"test_{name}"
    init_args = {"save_dir": str(folder), "name": "", "version": version}
    logger = json.dumps({"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": init_args})
    tmkd(["test", "--config", str(folder / "config.yaml"), "--ckpt_path", str(checkpoint), "--trainer.logger", logger])
    with (folder / version / "metrics.csv").open() as file:
        *_, row = csv.DictReader(file)
    epoch = torch.load(checkpoint, map_location="cpu", weights_only=True)["epoch"]
    return {"epoch": epoch, **{key: float(value) for key, value in row.items() if key.startswith("test/")}}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
