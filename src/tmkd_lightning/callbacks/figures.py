"""Draws figures during training: to files, and to the loggers that take images."""

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng

from tmkd_lightning.callbacks.validation_batches import validation_batches
from tmkd_lightning.figures import FIGURES, CollectedOutputs, History, OutputCollector, plot_all, save_figures
from tmkd_lightning.figures.curves import ACCURACIES, FUSION, run_name
from tmkd_lightning.figures.drawing import FORMATS, check_choice, check_matplotlib, to_image
from tmkd_lightning.text.class_names import find_class_names, resolve_class_names
from tmkd_lightning.utils.files import check_writable


class Figures(Callback):
    """Draws views, CAMs, t-SNE, logits and curves from the validation images, at the end of training.

    One process draws, from the validation images that it has. Training is not touched: copies of the networks get the
    images, and the random generators are put back. What the run has no data for is skipped with a warning; views or
    CAMs named in `which` are an error when training starts.

    Args:
        which: names of figures, see `tmkd_lightning.figures.FIGURES`; None for all that the run has data for.
        every_n_epochs: draws after every so many epochs too; None for the end alone.
        formats: of the files, ``png`` and ``pdf``; none for the loggers alone.
        folder: where the files go, in a folder for each epoch; by default ``figures`` in the log folder.
        examples: number of images in views and CAMs, one of each class.
        batches: number of batches, at most ``limit_val_batches``, spread over the first validation set; None for all.
        seed: of t-SNE.
    """

    def __init__(
        self,
        which: Sequence[str] | None = None,
        every_n_epochs: int | None = None,
        formats: Sequence[str] = FORMATS,
        folder: str | None = None,
        examples: int = 4,
        batches: int | None = None,
        seed: int = 0,
    ) -> None:
        check_matplotlib()
        check_choice("figure", which or (), FIGURES)
        check_choice("format", formats, FORMATS)
        for name, value in (("every_n_epochs", every_n_epochs), ("examples", examples), ("batches", batches)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.which, self.every_n_epochs, self.formats = which, every_n_epochs, formats
        self.folder = None if folder is None else Path(folder).expanduser()
        self.examples, self.batches, self.seed = examples, batches, seed
        self._history = History()
        self._last_step = -1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Finds the folder of the logs, and checks a folder that was named."""
        if stage == "fit":
            logs = Path(trainer.log_dir or trainer.default_root_dir)  # asks the other processes
            if trainer.logger is not None and not isinstance(trainer.logger, (CSVLogger, TensorBoardLogger)):
                logs = logs / str(trainer.logger.name) / str(trainer.logger.version)  # as checkpoints are
            self._run = run_name(logs)
            self._folder = self.folder or logs / "figures"
            if self.folder is not None and self.formats and _draws(trainer):
                check_writable(self.folder / f"figure.{self.formats[0]}")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws one batch, to fail now and not when the run is over."""
        names = [name for name in ("views", "cam") if name in (self.which or ())]
        if names and _draws(trainer):
            self._plot(trainer, pl_module, names, batches=1)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Records the accuracy."""
        logged = [trainer.callback_metrics[name] for name in ACCURACIES if name in trainer.callback_metrics]
        if logged and not trainer.sanity_checking:
            self._history.accuracy[trainer.current_epoch] = logged[0].item()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Records the weights of the views, and draws after `every_n_epochs`."""
        for name, value in trainer.callback_metrics.items():
            if name.startswith(FUSION):
                weights = self._history.weights.setdefault(name.removeprefix(FUSION), {})
                weights[trainer.current_epoch] = value.item()
        if self.every_n_epochs is not None and (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._draw(trainer, pl_module, trainer.current_epoch + 1)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws, unless the last epoch has been drawn."""
        if self._last_step != trainer.global_step:
            self._draw(trainer, pl_module, trainer.current_epoch)

    def state_dict(self) -> dict[str, Any]:
        """The curves so far, for a run that is resumed."""
        return {"weights": self._history.weights, "accuracy": self._history.accuracy}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues the curves."""
        self._history = History(**state_dict)

    def _draw(self, trainer: Trainer, module: LightningModule, epochs: int) -> None:
        step = self._last_step = trainer.global_step
        if not _draws(trainer):
            return
        seed = os.environ.get("PL_GLOBAL_SEED", "unknown")  # where seed_everything leaves it
        source = f"From run {self._run}, epoch {epochs} (step {step}), seed {seed}"
        names = self.which or FIGURES
        figures = self._plot(trainer, module, names, self.batches, source=source, on_skip=rank_zero_warn)
        folder = self._folder / f"epoch_{epochs}"
        save_figures({folder / f"{name}.{kind}": one for name, one in figures.items() for kind in self.formats})
        for logger, (name, figure) in itertools.product(trainer.loggers, figures.items()):
            if isinstance(logger, WandbLogger):
                logger.log_image(f"figures/{name}", [to_image(figure)], step=step)
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(f"figures/{name}", np.asarray(to_image(figure)), step, dataformats="HWC")

    def _plot(self, trainer: Trainer, module: Any, names: Sequence[str], batches: int | None, **options: Any) -> Any:
        def collect() -> CollectedOutputs:
            roles = ("network",) if module.teacher is None else ("student", "teacher")
            networks = dict(zip(roles, module.extractors(), strict=False))  # an unused teacher is not loaded
            names = resolve_class_names(module.num_classes, known=find_class_names(module))
            collector = OutputCollector(networks, names, self.examples)
            for batch in validation_batches(trainer, batches)[0]:
                collector.update(*module.preprocess_labelled(batch))
            return collector.compute()

        with isolate_rng():
            return plot_all(collect, module.views, lambda: {self._run: self._history}, names, seed=self.seed, **options)


def _draws(trainer: Trainer) -> bool:
    """Whether this process draws: the first one, and not in a trial run."""
    return trainer.is_global_zero and not trainer.fast_dev_run  # type: ignore[attr-defined]
