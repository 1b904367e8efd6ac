"""``tmkd``: Lightning's command line for our modules, and our own verbs."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import FrameType

from jsonargparse import Namespace
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.parsing import AttributeDict

from tmkd_lightning.callbacks import CarriedCurve, RunRecord
from tmkd_lightning.cli.cache import cache_command
from tmkd_lightning.cli.closing import Closing, LogEveryEpoch, warn_of_other_runs
from tmkd_lightning.cli.data import data_command
from tmkd_lightning.cli.embed import embed_command
from tmkd_lightning.cli.export import export_command
from tmkd_lightning.cli.figures import figures_command
from tmkd_lightning.cli.parser import Parser
from tmkd_lightning.cli.predict import predict_command
from tmkd_lightning.cli.resume import check_same_run
from tmkd_lightning.cli.save_config import LogConfig
from tmkd_lightning.lightning_compat.atomic_checkpoints import WholeCheckpointIO, keep_folders, whole_checkpoint
from tmkd_lightning.lightning_compat.sigterm import end_outside_of_loops
from tmkd_lightning.models.pretrained import PretrainedWeightsError
from tmkd_lightning.teacher.cache import CacheError
from tmkd_lightning.text.openclip import TextWeightsError
from tmkd_lightning.utils.checkpoint_reading import read_checkpoint
from tmkd_lightning.utils.configs import RESOLVED_CONFIG, load_yaml, read_config
from tmkd_lightning.utils.messages import printable
from tmkd_lightning.utils.secrets import redact, redact_words

VERBS = {
    "cache": cache_command,
    "data": data_command,
    "embed": embed_command,
    "export": export_command,
    "figures": figures_command,
    "predict --images": predict_command,
}

# What our verbs raise for a user to read; anything else is a fault of the code, and keeps its traceback.
_ERRORS = (ValueError, OSError, ImportError, CacheError, PretrainedWeightsError, TextWeightsError)

# Said by libraries about themselves or about each other; nothing a user of ours could act on.
_NOISE = (
    r"(?s).*Jsonargparse.*",
    r"(?s).*was deprecated in v4\.\d+\.0 and will be removed in v5.*",
    r".*isinstance\(treespec, LeafSpec\).*",
    r".*does not have many workers.*",
)
_LOGS_TOO_SELDOM = r".*The number of training batches .* is smaller than the logging interval.*"


class TMKDCLI(LightningCLI):
    """Lightning's command line: any module, any datamodule, by class_path."""

    _asked: tuple[Namespace, bool] | None = None
    """Where a run is resumed: the module that the config asks for, and whether the file is not the one it names."""

    def __init__(self, args: Sequence[str] | None = None) -> None:
        command = shlex.join(redact_words(["tmkd", *(sys.argv[1:] if args is None else args)]))
        super().__init__(
            LightningModule,
            LightningDataModule,
            parser_class=Parser,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,  # it would optimise the teacher too
            save_config_callback=LogConfig,
            # not config.yaml: where the log folder is the working folder, that may be the one that was read
            save_config_kwargs={"config_filename": RESOLVED_CONFIG, "overwrite": True, "save_to_log_dir": False},
            trainer_defaults={"callbacks": [RunRecord(command), CarriedCurve()]},
            seed_everything_default=0,
            parser_kwargs={"description": f"Knowledge distillation. Further verbs: {', '.join(VERBS)}."},
            args=None if args is None else list(args),
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Passes a damaged checkpoint over, and refuses by its name one or a config that cannot be read safely.

        Whoever reads the file next would not tell the name.
        """
        try:
            _check_configs(sys.argv[1:] if args is None else args)
        except ValueError as error:
            parser.error(str(error))
        super().parse_arguments(parser, args)
        config = self.config[self.config.subcommand]
        checkpoint = os.path.expanduser(config.get("ckpt_path") or "")
        if checkpoint:
            config.ckpt_path = checkpoint
        if checkpoint.endswith(".ckpt") and "://" not in checkpoint and not Path(checkpoint).exists():
            parser.error(f"there is no checkpoint {checkpoint}")
        if os.path.isfile(checkpoint):  # else it is a keyword, a link or a folder, which Lightning knows
            if self.config.subcommand == "fit":
                whole = whole_checkpoint(Path(checkpoint))
                self._asked = config.model.clone(), whole != Path(checkpoint)
                config.ckpt_path = str(whole)
            else:
                read_checkpoint(Path(checkpoint))

    def before_instantiate_classes(self) -> None:
        """Opens checkpoints without running what is in them, unless the user says otherwise; and those of this run."""
        config = self.config[self.subcommand]
        if self._asked is not None:
            asked, instead = self._asked
            try:
                check_same_run(Path(config.ckpt_path), asked, config.model, instead)
            except ValueError as error:
                self.parser.error(str(error))
        if config.weights_only is None:
            config.weights_only = True

    def after_instantiate_classes(self) -> None:
        """Keeps keys from the loggers, to which Lightning hands what a module and a datamodule were built with.

        From here on SIGTERM is answered, also where Lightning's loops do not yet run and see to it.
        """
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._end)
        for part in (self.model, self.datamodule):
            if part is not None:
                part._hparams_initial = AttributeDict(redact(dict(part.hparams_initial)))

    def _end(self, number: int, frame: FrameType | None) -> None:
        if not self.trainer.received_sigterm:  # Lightning's handler was not asked first
            end_outside_of_loops(self.trainer)

    def before_fit(self) -> None:
        """Has checkpoints written in one piece, those of a resumed run where it began, and each epoch logged."""
        if type(self.trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # not the user's own
            self.trainer.strategy.checkpoint_io = WholeCheckpointIO()
        checkpoint = self.config.fit.ckpt_path
        if checkpoint and Path(checkpoint).is_file():
            keep_folders(self.trainer, Path(checkpoint))
        else:
            warn_of_other_runs(self.trainer)
        self.trainer.callbacks.insert(0, Closing())  # type: ignore[attr-defined]
        if self.config.fit.trainer.log_every_n_steps is None:
            warnings.filterwarnings("ignore", message=_LOGS_TOO_SELDOM)
            self.trainer.callbacks.insert(0, LogEveryEpoch())  # type: ignore[attr-defined]


def _check_configs(args: ArgsType) -> None:
    """Refuses files that are named as configs, of all or of a part; one that is missing is the parser's to tell.

    Raises:
        ValueError: one cannot be read safely.
    """
    words = [] if not isinstance(args, list) else [str(word) for word in args]
    pairs = [*pairwise(words), *(tuple(word.split("=", 1)) for word in words if "=" in word)]
    for option, value in pairs:
        path = os.path.expanduser(value)
        if option in ("--config", "-c") and os.path.isfile(path):
            read_config(Path(path))
        elif option.startswith("--") and value.endswith((".yaml", ".yml")) and os.path.isfile(path):
            load_yaml(Path(path))


def main(args: Sequence[str] | None = None) -> None:
    """Runs ``tmkd``.

    Args:
        args: command-line arguments; None for those of the process.

    Raises:
        SystemExit: with status 2 and one message, where a verb of ours fails on the process's arguments. Lightning's
            verbs, in which a user's code may be at fault, and calls with `args` leave exceptions as they are.
    """
    for message in _NOISE:
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda record: "Tip:" not in record.msg)
    if os.getcwd() not in sys.path:  # a class_path may name a module of the user's project
        sys.path.append(os.getcwd())  # behind what is installed: a yaml.py there is not the package yaml
    arguments = sys.argv[1:] if args is None else args
    verb = _verb(arguments)
    if verb is None:
        before = signal.getsignal(signal.SIGTERM)
        try:
            TMKDCLI(args)
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, before)
        return
    try:
        _check_configs(list(arguments))
        VERBS[verb](arguments[1:])
    except _ERRORS as error:
        if args is not None:
            raise
        message = redact(printable(error, keep="\n"))
        print(f"tmkd {arguments[0]}: error: {message}", file=sys.stderr)
        sys.exit(2)


def _verb(args: Sequence[str]) -> str | None:
    """The verb of ours that is meant; ``predict`` is Lightning's too, whose arguments are others."""
    if not args:
        return None
    ours = args[0] == "predict" and any(arg.split("=")[0] in ("--images", "--checkpoint") for arg in args)
    verb = "predict --images" if ours else args[0]
    return verb if verb in VERBS else None
