"""Ends a run at SIGTERM with exit status 143 and one line on stderr.

Works around: Lightning ends such a run with status 0 (https://github.com/Lightning-AI/pytorch-lightning/issues/19916),
does not end prediction, and waits forever for processes that were not signalled too
(https://github.com/Lightning-AI/pytorch-lightning/issues/20806).
Delete when: both issues are closed in the lowest version that pyproject.toml allows.
"""

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

EXIT_STATUS = 128 + signal.SIGTERM


class ExitOnSigterm(Callback):
    """Ends a run at SIGTERM with exit status 143 and one line on stderr. Our modules add it.

    A process that runs alone ends after the batch, as Lightning has it. One of several ends at once: its closed
    connections end the others, and the launching process passes the signal on.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replaces Lightning's handler, which the trainer has set by now, unless the process runs alone."""
        alone = trainer.world_size == 1 and not isinstance(trainer.strategy.launcher, _MultiProcessingLauncher)
        if alone or threading.current_thread() is not threading.main_thread():
            return

        def exit_now(number: int, frame: FrameType | None) -> None:
            signal.signal(number, signal.SIG_IGN)
            report_sigterm(trainer)
            if trainer.strategy.launcher is not None:
                trainer.strategy.launcher.kill(signal.Signals(number))
            timer = threading.Timer(20.0, os._exit, args=(EXIT_STATUS,))  # cleaning up may wait for one that is gone
            timer.daemon = True
            timer.start()
            raise SIGTERMException(EXIT_STATUS)

        signal.signal(signal.SIGTERM, exit_now)

    on_validation_start = on_test_start = on_predict_start = on_train_start

    def on_predict_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Ends prediction after the batch."""
        if trainer.received_sigterm:
            raise SIGTERMException

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Sets the exit status of Lightning's exception."""
        if isinstance(exception, SIGTERMException) and exception.code is None:
            exception.code = EXIT_STATUS
            report_sigterm(trainer)


def exit_outside_loops(trainer: Trainer) -> None:
    """Exits where Lightning's loops are not running, such as while data are prepared, and ends launched processes."""
    if (launcher := trainer.strategy.launcher) is not None:
        launcher.kill(signal.SIGTERM)
    if not (isinstance(launcher, _MultiProcessingLauncher) and launcher.procs):  # those report for themselves
        report_sigterm(trainer)
    sys.exit(EXIT_STATUS)


def report_sigterm(trainer: Trainer) -> None:
    """Writes to stderr which process received SIGTERM and, in training, where the last checkpoint is."""
    line = "received SIGTERM and ends"
    if trainer.world_size > 1:
        line = f"process {trainer.global_rank} of {trainer.world_size} {line}, and the others with it"
    if trainer.state.fn == "fit":
        callbacks = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
        paths = [Path(path) for one in callbacks for path in (one.last_model_path, one.best_model_path)]
        last = max(filter(Path.is_file, paths), key=lambda path: path.stat().st_mtime, default=None)
        line += f": its last checkpoint is {last}" if last else ": this run has not written a checkpoint yet"
    print(line, file=sys.stderr, flush=True)
