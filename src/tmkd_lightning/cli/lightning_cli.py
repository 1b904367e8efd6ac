"""Lightning's command line for our modules: fit, validate, test and predict."""

import os
import shlex
import signal
import sys
import threading
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar, TQDMProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from lightning.pytorch.utilities.parsing import AttributeDict
from torch.utils._pytree import tree_leaves

from tmkd_lightning.callbacks import PromptEmbeddings, RunRecord, TeacherCache
from tmkd_lightning.callbacks.progress_lines import without_terminal
from tmkd_lightning.cli.arguments import Argument, arguments
from tmkd_lightning.cli.errors import Refused
from tmkd_lightning.cli.main import Parser, check_configs
from tmkd_lightning.lightning_compat.atomic_checkpoints import AtomicCheckpointIO, check_whole, keep_folders
from tmkd_lightning.lightning_compat.sigterm import exit_outside_loops
from tmkd_lightning.modules import TMKDModule
from tmkd_lightning.utils.checkpoint_reading import read_checkpoint
from tmkd_lightning.utils.files import atomic_write
from tmkd_lightning.utils.messages import printable
from tmkd_lightning.utils.secrets import redact, redact_words


def run(args: Sequence[str] | None, command_line: type["TMKDCLI"] | None = None) -> None:
    """Runs a verb of Lightning, or of another command line, and restores the SIGTERM handler afterwards."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        (command_line or TMKDCLI)(args)
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _build(class_type: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return class_type(*args, **kwargs)


class _LightningParser(Parser, LightningArgumentParser):
    """Lightning's parser, whose errors say in a few lines what to mend."""


class TMKDCLI(LightningCLI):
    """Lightning's command line: any module, any datamodule, by class_path."""

    _trainer_class = Trainer
    _model_config: Namespace | None = None  # of the config, before the checkpoint's hyperparameters replace it

    def __init__(self, args: Sequence[str] | None = None) -> None:
        try:
            self._run(args)
        except Refused as refused:
            raise refused.error from refused.error.__cause__

    def _run(self, args: Sequence[str] | None) -> None:
        command = shlex.join(redact_words(["tmkd", *(sys.argv[1:] if args is None else args)]))
        super().__init__(
            LightningModule,
            LightningDataModule,
            trainer_class=self._trainer_class,
            parser_class=_LightningParser,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,  # it would optimise the teacher too
            save_config_callback=SaveMaskedConfig,
            # not config.yaml, which may be the one that was read
            save_config_kwargs={"config_filename": "resolved_config.yaml", "overwrite": True, "save_to_log_dir": False},
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
        self._given = arguments(sys.argv[1:] if args is None else args)  # type: ignore[arg-type]
        for one in self._given:
            if one.key[-1:] and one.key[-1].startswith("limit_") and one.value == "1":
                rank_zero_warn(f"{one} is 1, read as 1.0, which is all batches; trainer.fast_dev_run: 1 takes one")
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
            check_same_run(self.parser, config.ckpt_path, self._model_config, config.model)
        if config.weights_only is None:
            config.weights_only = True

    def instantiate_classes(self) -> None:
        """Builds what the config names; a class that refuses its arguments raises its own exception."""
        self.parser.add_instantiator(_build, object)  # behind Lightning's own, for modules and data
        super().instantiate_classes()

    def after_instantiate_classes(self) -> None:
        """Masks secrets in the logged hyperparameters, and handles SIGTERM outside of Lightning's loops."""
        if isinstance(self.model, TMKDModule) and self.model.prompt_bank is not None:
            warn_of_replaced_texts(self._given)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._on_sigterm)
        if not any((one.value or "").endswith("ProgressBar") for one in self._given):
            show_lines(self.trainer)
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


def show_lines(trainer: Trainer) -> None:
    """Replaces a bar of Lightning's by lines where there is no terminal."""
    bar, callbacks = trainer.progress_bar_callback, trainer.callbacks  # type: ignore[attr-defined]
    if type(bar) in (RichProgressBar, TQDMProgressBar):  # not the user's own
        for lines in without_terminal():
            callbacks[callbacks.index(bar)] = lines


class OtherVerbCLI(TMKDCLI, ABC):
    """Reads the config of a run for a verb of ours, a method of its trainer, which logs and saves nothing by itself."""

    verb: str

    @classmethod
    def subcommands(cls) -> dict[str, set[str]]:
        """The one verb, and the arguments that Lightning passes."""
        return {cls.verb: {"model", "datamodule"}}

    def before_instantiate_classes(self) -> None:
        """Nothing: there is no checkpoint to resume from."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """A trainer of what `trainer_options` takes from the config's."""
        options = self.trainer_options(self._get(self.config_init, "trainer", default={}))
        return self._trainer_class(logger=False, enable_checkpointing=False, enable_model_summary=False, **options)

    @abstractmethod
    def trainer_options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of the trainer, from those of the config."""

    @staticmethod
    def teacher_caches(given: Mapping[str, Any]) -> list[Any]:
        """The TeacherCaches among the config's callbacks."""
        return [one for one in tree_leaves(given["callbacks"]) if isinstance(one, TeacherCache)]


class SaveMaskedConfig(SaveConfigCallback):
    """Saves the resolved config beside the logs and logs it, with keys and passwords masked."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Saves once."""
        self._folder = Path(trainer.log_dir or trainer.default_root_dir)  # asks all processes
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Writes and logs the config; runs on rank zero only."""
        text = self.parser.dump(self.config, skip_none=False)
        whole = yaml.safe_load(text)
        config = redact(whole)
        if config != whole:
            text = yaml.safe_dump(config, sort_keys=False)
        with atomic_write(self._folder / self.config_filename) as file:
            file.write(text.encode())
        for logger in trainer.loggers:
            logger.log_hyperparams(config)


class LogEveryEpoch(Callback):
    """Logs at least once an epoch, which may have fewer batches than the default ``log_every_n_steps`` of 50."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Shortens the interval to the batches of an epoch."""
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        trainer.log_every_n_steps = int(min(every, trainer.num_training_batches))  # type: ignore[attr-defined]


class RunSummary(Callback):
    """Prints the last and the best epoch when training ends, from the process that trained (see ``ddp_fork``)."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    @rank_zero_only
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints it."""
        seconds = time.monotonic() - self._start
        lines = [f"\n{trainer.current_epoch} epochs, {trainer.global_step} steps, {seconds:.0f} s"]
        for name, value in sorted(trainer.callback_metrics.items()):
            if "val/" in name:
                lines.append(f"  last epoch  {printable(name):<11} {value.item():.4f}")
        for checkpoint in trainer.checkpoint_callbacks:
            if isinstance(checkpoint, ModelCheckpoint) and checkpoint.best_model_score is not None:
                path, score = Path(checkpoint.best_model_path), checkpoint.best_model_score.item()
                path = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
                lines.append(f"  best epoch  {checkpoint.monitor:<11} {score:.4f}  {printable(path)}")
        print("\n".join(lines), flush=True)


def check_same_run(parser: LightningArgumentParser, path: str, config: Namespace, loaded: Namespace) -> None:
    """Warns where the checkpoint's settings of the module replace the config's; refuses another module or network."""
    ours, theirs = _settings(config), _settings(loaded)
    names = [name for name in {**theirs, **ours} if ours.get(name) != theirs.get(name)]
    other = [name for name in names if name.startswith(("class_path", "student.", "network."))]
    shown = [(name, redact(theirs.get(name), name), redact(ours.get(name), name)) for name in (other or names)]
    text = ", ".join(f"{name} {saved!r} (config: {given!r})" for name, saved, given in shown[:4])
    text += f", and {len(shown) - 4} more" if len(shown) > 4 else ""
    if other:
        parser.error(
            f"{path} is the checkpoint of another run than the config's: {text}; give the config of that run, another "
            "--ckpt_path, or none"
        )
    if names:
        rank_zero_warn(f"the settings in {path} hold, and not the config's: {text}")


def warn_of_replaced_texts(given: Sequence[Argument]) -> None:
    """Warns where the callbacks of a config replace those of one before that held PromptEmbeddings."""
    held: Argument | None = None
    for _, group in groupby(given, key=lambda one: one.file or id(one)):
        callbacks = [one for one in group if one.key[:2] == ("trainer", "callbacks")]
        own = [one for one in callbacks if PromptEmbeddings.__name__ in (one.value or "")]
        replaces = [one for one in callbacks if len(one.key) == 2 and not one.appends]
        if held and replaces and not own:
            rank_zero_warn(
                f"{replaces[0]} replaces all callbacks before it, PromptEmbeddings of {held.place} too, so the texts "
                "are encoded by CLIP: write callbacks+ to add to them"
            )
        held = own[0] if own else (None if replaces else held)


def _settings(model: Namespace) -> dict[str, Any]:
    """Settings by their names on the command line."""
    return {
        name.replace("init_args.", "").replace("dict_kwargs.", ""): list(value) if isinstance(value, tuple) else value
        for name, value in vars(model.as_flat()).items()
    }
