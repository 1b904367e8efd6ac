"""Progress of a trainer in lines, where no terminal shows a bar."""

import sys
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.trainer.states import TrainerFn

from tmkd_lightning.utils.messages import printable
from tmkd_lightning.utils.progress import Clock, on_terminal


class ProgressLines(ProgressBar):
    """Prints a line with the metrics after each epoch, and one now and then within what takes longer.

    The command ``tmkd`` puts it in the place of Lightning's bar where stderr is no terminal and the config names no bar
    of its own: a log file would hold each drawing of a bar. Of several processes one prints.

    Example:
        >>> trainer = Trainer(callbacks=[ProgressLines()], logger=False, accelerator="cpu")
        >>> type(trainer.progress_bar_callback).__name__
        'ProgressLines'
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._clock = Clock()  # of an epoch, or of a validation, test or prediction by itself

    def disable(self) -> None:
        """Prints nothing from now on; Lightning calls it in all processes but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Prints again."""
        self._enabled = True

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._clock = Clock()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._clock = Clock()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Prints the loss now and then; `args` are outputs, batch and its place."""
        if self._clock.due():
            self._print(
                f"{self._epoch(trainer)}: batch {args[2] + 1} of {self.total_train_batches}", self._values("train/")
            )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the metrics."""
        self._print(self._epoch(trainer), self._values())

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Prints how far validation is, within an epoch or by itself; a loader's place may follow."""
        if self._is_due(args):
            within = f"{self._epoch(trainer)}: validation" if _fits(trainer) else "validation"
            within = "sanity check" if trainer.sanity_checking else within
            self._print(f"{within}, batch {args[2] + 1} of {self.total_val_batches_current_dataloader}")

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Prints how far the test is."""
        if self._is_due(args):
            self._print(f"test, batch {args[2] + 1} of {self.total_test_batches_current_dataloader}")

    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Prints how far the prediction is."""
        if self._is_due(args):
            self._print(f"prediction, batch {args[2] + 1} of {self.total_predict_batches_current_dataloader}")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock, unless an epoch has."""
        self._restart(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._restart(trainer)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._restart(trainer)

    def _restart(self, trainer: Trainer) -> None:
        if not _fits(trainer):
            self._clock = Clock()

    def _is_due(self, args: Sequence[Any]) -> bool:
        self.has_dataloader_changed(args[3] if len(args) > 3 else 0)  # notes it, for the number of batches
        return self._clock.due()

    @staticmethod
    def _epoch(trainer: Trainer) -> str:
        last = f" of {trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""
        return f"epoch {trainer.current_epoch + 1}{last}"

    def _values(self, of: str = "") -> list[str]:
        """Metrics of the progress bar; within an epoch those of validation are of the one before."""
        metrics = self.get_metrics(self.trainer, self.trainer.lightning_module)
        names = [name for name, value in metrics.items() if name.startswith(of) and isinstance(value, (int, float))]
        return [f"{printable(name)} {metrics[name]:.4g}" for name in names if name != "v_num"]

    def _print(self, what: str, values: Sequence[str] = ()) -> None:
        if self._enabled:
            text = ", ".join([what, f"{self._clock.seconds:.0f} s", *values])
            print(text[0].upper() + text[1:], file=sys.stderr, flush=True)


def _fits(trainer: Trainer) -> bool:
    return trainer.state.fn == TrainerFn.FITTING


def without_terminal() -> list[ProgressBar]:
    """The callback for a trainer of ours where there is no terminal; else none, and Lightning's own bar shows."""
    return [] if on_terminal() else [ProgressLines()]
