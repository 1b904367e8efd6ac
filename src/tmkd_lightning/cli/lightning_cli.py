"""Lightning's command line for our modules: fit, validate, test and predict."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from jsonargparse import Namespace
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.parsing import AttributeDict

from tmkd_lightning.callbacks import RunRecord
from tmkd_lightning.cli.parser import Parser, check_configs
from tmkd_lightning.cli.resume import check_same_run
from tmkd_lightning.cli.save_config import SaveMaskedConfig
from tmkd_lightning.cli.summary import LogEveryEpoch, RunSummary
from tmkd_lightning.lightning_compat.atomic_checkpoints import AtomicCheckpointIO, check_whole, keep_folders
from tmkd_lightning.lightning_compat.sigterm import exit_outside_loops
from tmkd_lightning.utils.checkpoint_reading import read_checkpoint
from tmkd_lightning.utils.secrets import redact, redact_words


def run(args: Sequence[str] | None) -> None:
    """Runs a verb of Lightning, and restores the SIGTERM handler afterwards."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        TMKDCLI(args)
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


class _LightningParser(Parser, LightningArgumentParser):
    """Lightning's parser, with secrets masked in errors."""


class TMKDCLI(LightningCLI):
    """Lightning's command line: any module, any datamodule, by class_path."""

    _model_config: Namespace | None = None  # of the config, before the checkpoint's hyperparameters replace it

    def __init__(self, args: Sequence[str] | None = None) -> None:
        command = shlex.join(redact_words(["tmkd", *(sys.argv[1:] if args is None else args)]))
        super().__init__(
            LightningModule,
            LightningDataModule,
            parser_class=_LightningParser,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,  # it would optimise the teacher too
            save_config_callback=SaveMaskedConfig,
            save_config_kwargs={  # not config.yaml, which may be the one that was read
                "config_filename": "resolved_config.yaml",
                "overwrite": True,
                "save_to_log_dir": False,
            },
            trainer_defaults={"callbacks": [RunRecord(command)]},
            seed_everything_default=0,
            args=None if args is None else list(args),
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Refuses missing, damaged or unsafe configs and checkpoints before anything is built."""
        try:
            check_configs(sys.argv[1:] if args is None else args)  # type: ignore[arg-type]
        except ValueError as error:
            parser.error(str(error))
        super().parse_arguments(parser, args)
        config = self.config[self.config.subcommand]
        checkpoint = os.path.expanduser(config.get("ckpt_path") or "")
        if not checkpoint:
            return
        config.ckpt_path = checkpoint
        if Path(checkpoint).is_file():
            check_whole(Path(checkpoint))
            if not isinstance(read_checkpoint(Path(checkpoint)), Mapping):
                raise ValueError(f"{checkpoint} is not a checkpoint of a run")
            self._model_config = config.model.clone()
        elif checkpoint.endswith(".ckpt") and "://" not in checkpoint and not Path(checkpoint).exists():
            parser.error(f"there is no checkpoint {checkpoint}")

    def before_instantiate_classes(self) -> None:
        """Refuses the checkpoint of another run, and reads checkpoints with ``weights_only`` by default."""
        config = self.config[self.subcommand]
        if self.subcommand == "fit" and self._model_config is not None:
            try:
                check_same_run(Path(config.ckpt_path), self._model_config, config.model)
            except ValueError as error:
                self.parser.error(str(error))
        if config.weights_only is None:
            config.weights_only = True

    def after_instantiate_classes(self) -> None:
        """Masks secrets in the logged hyperparameters, and handles SIGTERM outside of Lightning's loops."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._on_sigterm)
        for part in (self.model, self.datamodule):
            if part is not None:
                part._hparams_initial = AttributeDict(redact(dict(part.hparams_initial)))

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        if not self.trainer.received_sigterm:  # Lightning's handler has not run before this one
            exit_outside_loops(self.trainer)

    def before_fit(self) -> None:
        """Saves checkpoints atomically, those of a resumed run where it began, and logs each epoch."""
        if type(self.trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # not the user's own
            self.trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        checkpoint = self.config.fit.ckpt_path
        if checkpoint and Path(checkpoint).is_file():
            keep_folders(self.trainer, Path(checkpoint))
        self.trainer.callbacks.insert(0, RunSummary())  # type: ignore[attr-defined]
        if self.config.fit.trainer.log_every_n_steps is None:
            warnings.filterwarnings("ignore", message="The number of training batches .* is smaller than the logging")
            self.trainer.callbacks.insert(0, LogEveryEpoch())  # type: ignore[attr-defined]
