"""Measures both checkpoints of a cell on the test split, each by ``tmkd test``, in one process."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from curve import attempts
from tmkd_lightning.cli.main import main as tmkd


def main(folder: Path) -> None:
    newest = attempts(folder)[-1].with_suffix(".yaml")
    for name in ("best", "last"):
        place = {"save_dir": str(folder), "name": "", "version": f"test_{name}"}
        logger = json.dumps({"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": place})
        where = ["--ckpt_path", str(folder / f"{name}.ckpt"), "--trainer.logger", logger]
        tmkd(["test", "--config", str(newest), *where])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
