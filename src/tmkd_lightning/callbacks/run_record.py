"""What a number needs beside it to be believed: commit, versions, hardware, command."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torchvision
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

import tmkd_lightning
from tmkd_lightning.utils.files import atomic_write

_PACKAGES = ("lightning", "kornia", "open_clip_torch", "numpy")


class RunRecord(Callback):
    """Writes down what a training run was made with: into every logger's hyperparameters, and as JSON beside its logs.

    The command line adds it by itself. The file is ``run_record.json`` in the log folder; the loggers get the same
    under ``run``. Environment variables are never read, so no key or password in them can get there.

    Args:
        command: the command that was called, None to leave it out.

    Example:
        >>> sorted(RunRecord("tmkd fit").record())
        ['command', 'git', 'hardware', 'started', 'versions']
    """

    def __init__(self, command: str | None = None) -> None:
        self.command = command

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Writes, when training starts."""
        folder = trainer.log_dir or trainer.default_root_dir  # asks all processes
        if stage == "fit":
            self._write(trainer, Path(folder))

    @rank_zero_only
    def _write(self, trainer: Trainer, folder: Path) -> None:
        record = self.record()
        record["hardware"] |= {"accelerator": type(trainer.accelerator).__name__, "devices": trainer.num_devices}
        for logger in trainer.loggers:
            logger.log_hyperparams({"run": record})
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            with atomic_write(folder / "run_record.json") as file:
                file.write((json.dumps(record, indent=1) + "\n").encode())

    def record(self) -> dict[str, Any]:
        """Looks around.

        Returns:
            Plain types: the command, the start in UTC, the commits of the working folder and of this library's source
            (None outside of git; ``-dirty`` with changes that are not committed), versions and hardware.
        """
        library = Path(tmkd_lightning.__file__)
        return {
            "command": self.command,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "git": {"working_folder": commit(Path.cwd()), "library": commit(library.parent, tracks=library.name)},
            "versions": _versions(),
            "hardware": _hardware(),
        }


def commit(folder: Path, tracks: str = ".") -> str | None:
    """The commit that is checked out in a folder.

    Args:
        folder: in a working tree of git.
        tracks: a path in it that git must know: an environment inside of a project is not part of it.

    Returns:
        Its hash, with ``-dirty`` behind it if a tracked file was changed; None if there is none, or no git.
    """
    try:
        known = _git(folder, "ls-files", "--error-unmatch", tracks)
        described = _git(folder, "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*")
    except FileNotFoundError:
        return None
    return described.stdout.strip() if known.returncode == described.returncode == 0 else None


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)


def _versions() -> dict[str, str]:
    ours = {"python": platform.python_version(), "tmkd_lightning": tmkd_lightning.__version__}
    builds = {"torch": str(torch.__version__), "torchvision": torchvision.__version__}  # with +cpu or +cu130
    return {**ours, **builds, **{name: version(name) for name in _PACKAGES}}


def _hardware() -> dict[str, Any]:
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
        "cuda": torch.version.cuda if gpus else None,
        "system": platform.platform(),
    }


def _cpu() -> str:
    """Its name where Linux gives it, else its architecture."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
