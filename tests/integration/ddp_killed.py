"""Trains in two processes until one of them is killed. Run by test_ddp.py."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer

from integration.ddp_equals_one import BATCH, SETTINGS, Noise, build, trainer


class Tell(Callback):
    """Writes which process this is, once it trains."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        path = self.folder / f"rank{trainer.global_rank}"
        if trainer.global_step == 5:
            path.with_suffix(".part").write_text(str(os.getpid()))
            path.with_suffix(".part").rename(path)


if __name__ == "__main__":
    run = trainer(2, callbacks=[Tell(Path(sys.argv[1]))], max_epochs=-1)
    run.fit(build(**SETTINGS["kd"]), datamodule=Noise(24, 9, BATCH // 2))
