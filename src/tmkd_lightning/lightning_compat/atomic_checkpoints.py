"""Checkpoints that are whole or not there, and the newest whole one of a folder."""

from __future__ import annotations

import glob
import time
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn

from tmkd_lightning.utils.checkpoint_reading import read_checkpoint
from tmkd_lightning.utils.files import atomic_write, temporary_prefix
from tmkd_lightning.utils.secrets import without_secrets

_ARGUMENTS = [kind.CHECKPOINT_HYPER_PARAMS_KEY for kind in (LightningModule, LightningDataModule)]
_ABANDONED = 600  # seconds without a write, after which nobody writes to a file any more


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there, so that a kill leaves the one before.

    Lightning writes into the system's temporary folder, from where a move onto another disk is a copy that can be cut
    off. The command line uses this one by itself; in Python it is ``Trainer(plugins=[WholeCheckpointIO()])``.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp()) / "last.ckpt"
        >>> WholeCheckpointIO().save_checkpoint({"global_step": 3}, path)
        >>> step_of(path)
        3
    """

    def load_checkpoint(self, path: Any, *options: Any, **named: Any) -> dict[str, Any]:
        """Reads a file, and says so if it is damaged.

        Args:
            path: of the file.
            options: Lightning's.
            named: Lightning's.

        Returns:
            What was written.

        Raises:
            ValueError: it is damaged. Which file takes its place is for `whole_checkpoint`, where a run is resumed.
        """
        if "://" not in str(path) and Path(path).is_file() and _is_damaged(Path(path)):
            raise ValueError(f"{path} is damaged or cut off: give the path of a whole checkpoint")
        return super().load_checkpoint(path, *options, **named)

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes a file on a disk; other places are Lightning's. Keys among the arguments of the run are left out.

        Args:
            checkpoint: what to write.
            path: where to.
            storage_options: none are known.
        """
        checkpoint = {name: without_secrets(part) if name in _ARGUMENTS else part for name, part in checkpoint.items()}
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        _remove_left_by_kills(Path(path))
        with atomic_write(Path(path)) as file:
            torch.save(checkpoint, file)


def _remove_left_by_kills(path: Path) -> None:
    """Unfinished files of runs that were killed while they wrote; each is as large as a checkpoint."""
    path = path.resolve()  # where it is a link, they lie beside what it leads to
    for part in path.parent.glob(f"{glob.escape(temporary_prefix(path))}*"):
        with suppress(FileNotFoundError):  # another process has just moved it to its place, or removed it as we do
            if time.time() - part.stat().st_mtime > _ABANDONED:
                part.unlink()


def step_of(path: Path) -> int | None:
    """Number of training steps behind a checkpoint.

    Args:
        path: a file.

    Returns:
        The number; None if the file is cut off or damaged (every part of it has a checksum).

    Raises:
        ValueError: it is something else than a checkpoint, and cannot be read safely.
    """
    if _is_damaged(path):
        return None
    content = read_checkpoint(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no checkpoint: it holds a {type(content).__name__}")
    step = content.get("global_step", 0)
    if not isinstance(step, int):
        raise ValueError(f"{path} is no checkpoint: its global_step is a {type(step).__name__}")
    return step


def _is_damaged(path: Path) -> bool:
    with path.open("rb") as file:
        if file.read(2) not in (b"PK", b"P", b"", b"\0\0"):
            return False  # no archive at all, so not one of which a part is missing or was never written
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is not None
    except Exception:  # whatever the damage makes of the numbers in the file
        return True


def whole_checkpoint(path: Path) -> Path:
    """The checkpoint itself, or if it is damaged the newest whole one beside it; a warning says so.

    Args:
        path: of the checkpoint that was asked for.

    Returns:
        A file that is whole.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, and there is none beside it that is whole and can be read safely.

    Example:
        >>> from tempfile import mkdtemp
        >>> folder = Path(mkdtemp())
        >>> WholeCheckpointIO().save_checkpoint({"global_step": 3}, folder / "best.ckpt")
        >>> count = (folder / "last.ckpt").write_bytes((folder / "best.ckpt").read_bytes()[:100])
        >>> whole_checkpoint(folder / "last.ckpt").name
        'best.ckpt'
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    if step_of(path) is not None:
        return path
    others: dict[Path, int] = {}
    for other in path.parent.glob("*.ckpt"):
        with suppress(ValueError, OSError):  # what cannot be read is no help
            if (step := step_of(other)) is not None:
                others[other] = step
    if not others:
        raise ValueError(f"{path} is damaged or cut off, and there is no whole checkpoint beside it: start anew")
    newest = max(others, key=lambda other: others[other])
    rank_zero_warn(f"{path} is damaged or cut off and is passed over: going on from {newest}, step {others[newest]}")
    return newest


def keep_folders(trainer: Trainer, path: Path) -> None:
    """Has each ``ModelCheckpoint`` that was given no folder go on where it wrote the checkpoint.

    Lightning would give it the logger's next folder, and with another folder it forgets which epoch was the best.

    Args:
        trainer: of the run that is resumed, before it begins.
        path: of the checkpoint, which is whole.
    """
    states = read_checkpoint(path).get("callbacks", {})
    callbacks = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
    for callback in callbacks:
        folder = states.get(callback.state_key, {}).get("dirpath")
        moved = folder is None or Path(folder).resolve() != path.parent.resolve()
        if callback.dirpath is None and not moved:
            callback.dirpath = folder
