"""What a process does when it is told to end: it ends with status 143, says so, and the others end with it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from lightning.pytorch.utilities.exceptions import SIGTERMException

_GRACE = 20.0  # seconds; what hangs for longer while a process ends waits for one that is gone
STATUS = 128 + signal.SIGTERM
"""Exit status of a process that SIGTERM has ended, as shells have it."""


class ToldToEnd(Callback):
    """Ends a run at SIGTERM with status 143 and one line. Our modules add it by themselves.

    A process that runs alone ends after the batch, as Lightning has it; but Lightning ends it with status 0, and does
    not end prediction at all. One of several ends at once, see `end_on_sigterm`.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the place of Lightning's handler, where it is not the only process."""
        end_on_sigterm(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Likewise, also within training."""
        end_on_sigterm(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Likewise."""
        end_on_sigterm(trainer)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Likewise."""
        end_on_sigterm(trainer)

    def on_predict_batch_end(self, trainer: Trainer, *batch: Any) -> None:
        """Ends a prediction."""
        if trainer.received_sigterm:
            raise SIGTERMException

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Gives the exception its status, and says what happened."""
        if isinstance(exception, SIGTERMException) and exception.code is None:
            exception.code = STATUS
            say_told_to_end(trainer)


def end_outside_of_loops(trainer: Trainer) -> None:
    """Ends a process where Lightning's loops do not run in it, and those that it has begun.

    Args:
        trainer: of the run.

    Raises:
        SystemExit: with status 143.
    """
    launcher = trainer.strategy.launcher
    if launcher is not None:
        launcher.kill(signal.SIGTERM)
    if not (isinstance(launcher, _MultiProcessingLauncher) and launcher.procs):  # those say where they were
        say_told_to_end(trainer)
    sys.exit(STATUS)


def say_told_to_end(trainer: Trainer) -> None:
    """Writes one line to stderr: which process was told, and where the last checkpoint of a training is."""
    line = "received SIGTERM and ends"
    if trainer.world_size > 1:
        line = f"process {trainer.global_rank} of {trainer.world_size} {line}, and the others with it"
    if trainer.state.fn == "fit":
        line += f": {_last_checkpoint(trainer)}"
    print(line, file=sys.stderr, flush=True)


def _last_checkpoint(trainer: Trainer) -> str:
    callbacks = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
    paths = {Path(path) for one in callbacks for path in (one.last_model_path, one.best_model_path) if path}
    written = [path for path in paths if path.is_file()]
    if not written:
        return "this run has not written a checkpoint yet"
    return f"its last checkpoint is {max(written, key=lambda path: path.stat().st_mtime)}"


def end_on_sigterm(trainer: Trainer) -> None:
    """Ends a process of several, or one that another has begun, at SIGTERM, in the place of Lightning's handler.

    Lightning's asks all other processes first, and waits forever where they were not told as well. Here nothing is
    asked: loggers are closed, a message says which process was told, and its exit status of 143 and its closed
    connections end the others. The launching process passes the signal on. A process that runs alone is left to
    Lightning, which waits for the end of the batch.

    Args:
        trainer: of the run, once it has set up its own handlers, so from ``on_train_start`` on. It takes them away
            again when the run is over, this one too.
    """
    alone = trainer.world_size == 1 and not isinstance(trainer.strategy.launcher, _MultiProcessingLauncher)
    if alone or threading.current_thread() is not threading.main_thread():
        return

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # once is enough
        say_told_to_end(trainer)
        if trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(signal.Signals(number))
        last = threading.Timer(_GRACE, os._exit, args=(STATUS,))
        last.daemon = True
        last.start()
        raise SIGTERMException(STATUS)

    signal.signal(signal.SIGTERM, end)
