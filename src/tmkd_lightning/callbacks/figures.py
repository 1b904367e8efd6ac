"""Draws figures while a run is fresh: to files, and to the loggers that take images."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from PIL import Image

from tmkd_lightning.callbacks.validation_batches import validation_batches
from tmkd_lightning.figures import (
    FIGURES,
    History,
    Material,
    Seen,
    check_names,
    drawings,
    figure_of,
    look,
    render,
    write,
)
from tmkd_lightning.figures.curves import ACCURACIES, FUSION
from tmkd_lightning.figures.drawing import check_matplotlib
from tmkd_lightning.figures.run import run_name
from tmkd_lightning.figures.save import check_format
from tmkd_lightning.text.class_names import find_class_names, resolve_class_names
from tmkd_lightning.utils.files import check_writable

_ON_ONE_BATCH = ("views", "attention")  # what can be told from one batch whether it can be drawn


class Figures(Callback):
    """Draws views, attention, embeddings, logits and curves from the validation images, at the end of training.

    One process draws, from the validation images that it has, and the others go on. What trains is not touched: copies
    of the networks look at the images, and the random generators are put back.

    Args:
        which: names of figures, see `tmkd_lightning.figures.FIGURES`; None for all that the run has something for.
        every_n_epochs: draws after every so many epochs too; None for the end alone.
        formats: of the files, ``png`` and ``pdf``; none for the loggers alone.
        folder: where the files go; by default ``figures`` in the folder of the trainer's first logger. Each epoch that
            is drawn has a folder of its own in it.
        examples: how many images to show in views and attention, one of each class.
        batches: how many batches of validation images to look at, from all over the first validation set where its
            images can be had by index; None for all. ``limit_val_batches`` holds here too.
        seed: of t-SNE.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        ValueError: an unknown figure or format, or a number out of its range; when training starts, views or attention
            named in `which` that this run has nothing for. Later, what cannot be drawn is left out with a warning.
        OSError: when training starts, a folder that cannot be written to.
    """

    def __init__(
        self,
        which: Sequence[str] | None = None,
        every_n_epochs: int | None = None,
        formats: Sequence[str] = ("png", "pdf"),
        folder: str | None = None,
        examples: int = 4,
        batches: int | None = None,
        seed: int = 0,
    ) -> None:
        check_matplotlib()
        if which is not None:
            check_names(which)
        for kind in formats:
            check_format(kind)
        for name, value in (("every_n_epochs", every_n_epochs), ("examples", examples), ("batches", batches)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.which, self.every_n_epochs, self.formats = which, every_n_epochs, formats
        self.folder = None if folder is None else Path(folder).expanduser()
        self.examples, self.batches, self.seed = examples, batches, seed
        self._history = History()
        self._drawn = -1  # the step

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Finds the folder, for which all processes are needed; one that was named must take files."""
        if stage == "fit":
            logs = _log_folder(trainer)
            self._run = run_name(logs)
            self._folder = logs / "figures" if self.folder is None else self.folder
            if self.folder is not None:  # the other one is the run's own, which is made when it has begun
                self._check_folder(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks at one batch: what cannot be drawn is to fail now, and not when the run is over."""
        if not _draws(trainer):
            return
        self._check_folder(trainer)
        with isolate_rng():
            material = self._material(trainer, pl_module, batches=1)
            for name in _ON_ONE_BATCH:
                if name in (self.which or ()):
                    material.drawing(name)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes the accuracy."""
        logged = trainer.callback_metrics
        accuracy = next((logged[name] for name in ACCURACIES if name in logged), None)
        if accuracy is not None and not trainer.sanity_checking:
            self._history.accuracy[trainer.current_epoch] = accuracy.item()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes the weights of the views, and draws if it is time to."""
        for name, value in trainer.callback_metrics.items():
            if name.startswith(FUSION):
                view = name.removeprefix(FUSION)
                self._history.weights.setdefault(view, {})[trainer.current_epoch] = value.item()
        if self.every_n_epochs is not None and (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._draw(trainer, pl_module, epochs=trainer.current_epoch + 1)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws, unless the last epoch has been drawn."""
        if self._drawn != trainer.global_step:
            self._draw(trainer, pl_module, epochs=trainer.current_epoch)

    def state_dict(self) -> dict[str, Any]:
        """What was noted, for a run that is resumed."""
        return {"weights": self._history.weights, "accuracy": self._history.accuracy}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with what was noted."""
        self._history = History(state_dict["weights"], state_dict["accuracy"])

    def _check_folder(self, trainer: Trainer) -> None:
        if self.formats and _draws(trainer):
            check_writable(self._folder / f"figure.{self.formats[0]}")

    def _draw(self, trainer: Trainer, module: LightningModule, epochs: int) -> None:
        self._drawn = trainer.global_step
        if not _draws(trainer):
            return
        with isolate_rng():
            material = self._material(trainer, module, self.batches)
            made = drawings(material, self.which or FIGURES, left_out=rank_zero_warn)
        seed = os.environ.get("PL_GLOBAL_SEED", "unknown")  # where seed_everything leaves it
        source = (
            f"From run {self._run}, epoch {epochs} (step {trainer.global_step}), seed {seed}, on validation images."
        )
        figures = {name: figure_of(drawing, source) for name, drawing in made.items()}
        folder = self._folder / f"epoch_{epochs}"
        write({folder / f"{name}.{kind}": render(one, kind) for name, one in figures.items() for kind in self.formats})
        for logger in trainer.loggers:
            if isinstance(logger, (WandbLogger, TensorBoardLogger)):
                for name, figure in figures.items():
                    _log(logger, f"figures/{name}", Image.open(io.BytesIO(render(figure))), trainer.global_step)

    def _material(self, trainer: Trainer, module: Any, batches: int | None) -> Material:
        def shown() -> Seen:
            roles = ("network",) if module.teacher is None else ("student", "teacher")
            networks = dict(zip(roles, module.extractors(), strict=False))  # a teacher that nothing reads is not loaded
            names = resolve_class_names(module.num_classes, known=find_class_names(module))
            images = map(module.preprocess_labelled, validation_batches(trainer, batches)[0])
            return look(networks, images, names, self.examples)

        return Material(shown, module.views, lambda: {self._run: self._history}, self.seed)


def _draws(trainer: Trainer) -> bool:
    """Whether this process is the one that draws, in a run that is none for trying out."""
    return trainer.is_global_zero and not trainer.fast_dev_run  # type: ignore[attr-defined]


def _log_folder(trainer: Trainer) -> Path:
    """Where the first logger writes; Lightning keeps checkpoints in the same place."""
    folder = Path(trainer.log_dir or trainer.default_root_dir)  # asks the other processes
    logger = trainer.logger
    if logger is None or isinstance(logger, (CSVLogger, TensorBoardLogger)) or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return folder
    return folder / str(logger.name) / str(logger.version)


def _log(logger: WandbLogger | TensorBoardLogger, name: str, image: Image.Image, step: int) -> None:
    if isinstance(logger, WandbLogger):
        logger.log_image(name, [image], step=step)
    else:
        logger.experiment.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")
