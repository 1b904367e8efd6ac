"""Records what a run was made with: command, commits, versions and hardware."""

import json
import re
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils import collect_env

import tmkd_lightning
from tmkd_lightning.utils.files import atomic_write


class RunRecord(Callback):
    """Records how a training run was made, in ``run_record.json`` beside its logs and in each logger under ``run``.

    These are the command, the start in UTC, the commits of the working folder and of this library (None outside of
    git, ``-dirty`` with uncommitted changes), versions and hardware, but no environment variables, which may hold keys.
    The command line adds this callback.

    Args:
        command: the command that was called, None to leave it out.
    """

    def __init__(self, command: str | None = None) -> None:
        self.command = command

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Writes the record when training starts."""
        folder = Path(trainer.log_dir or trainer.default_root_dir)  # asks all processes
        if stage != "fit" or not trainer.is_global_zero:
            return
        library = Path(tmkd_lightning.__file__)
        record = {
            "command": self.command,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "git": {"working_folder": commit(Path.cwd()), "library": commit(library.parent, library.name)},
            "versions": versions(),
            "hardware": {
                "accelerator": type(trainer.accelerator).__name__,
                "devices": trainer.num_devices,
                "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
                "cuda": torch.version.cuda,
                "cpu": cpu_name(),
                "threads": torch.get_num_threads(),
                "system": collect_env.get_python_platform(),
            },
        }
        for logger in trainer.loggers:
            logger.log_hyperparams({"run": record})
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            with atomic_write(folder / "run_record.json") as file:
                file.write((json.dumps(record, indent=1) + "\n").encode())


def versions() -> dict[str, str]:
    """Versions of this library and of those that decide numbers."""
    others = ("torchvision", "lightning", "kornia", "open_clip_torch", "numpy")
    own = {"tmkd_lightning": tmkd_lightning.__version__, "torch": str(torch.__version__)}
    return own | {name: version(name) for name in others}


def cpu_name() -> str:
    """The model of the CPU, or all that the system says of it."""
    cpu = collect_env.get_cpu_info(collect_env.run)  # get_env_info would start compilers, pip and conda too
    return next(iter(re.findall(r"Model name:\s*(.+)", cpu)), cpu)


def commit(folder: Path, tracked: str = ".") -> str | None:
    """The commit of a folder, ``-dirty`` with uncommitted changes; None where git does not know `tracked`."""
    git = ["git", "-C", str(folder)]
    try:
        unknown, _, _ = collect_env.run([*git, "ls-files", "--error-unmatch", tracked])
        describe = [*git, "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
        return None if unknown else collect_env.run_and_read_all(collect_env.run, describe)
    except FileNotFoundError:  # no git
        return None
