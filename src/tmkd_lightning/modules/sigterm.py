"""What one of several processes does when it is told to end: it ends, and says so, and the others end with it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

_GRACE = 20.0  # seconds; what hangs for longer while a process ends waits for one that is gone


def end_on_sigterm(trainer: Trainer) -> None:
    """Ends a process of several at SIGTERM, in the place of Lightning's handler.

    Lightning's asks all other processes first, and waits forever where they were not told as well. Here nothing is
    asked: loggers are closed, a message says which process was told, and its exit status of 143 and its closed
    connections end the others. The launching process passes the signal on. A process that trains alone is left to
    Lightning, which waits for the end of the batch.

    Args:
        trainer: of the run, once it has set up its own handlers, so from ``on_train_start`` on. It takes them away
            again when the run is over, this one too.
    """
    if trainer.world_size == 1 or threading.current_thread() is not threading.main_thread():
        return

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # once is enough
        print(
            f"process {trainer.global_rank} of {trainer.world_size} received SIGTERM and ends, and the others with it",
            file=sys.stderr,
            flush=True,
        )
        if trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(signal.Signals(number))
        last = threading.Timer(_GRACE, os._exit, args=(128 + number,))
        last.daemon = True
        last.start()
        raise SIGTERMException(128 + number)

    signal.signal(signal.SIGTERM, end)
