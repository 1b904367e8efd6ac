"""Atomic and verified checkpoint files, and the folder that a resumed run saves to.

Works around: Lightning saves through the system's temporary folder, and moving a file between disks is not atomic
(https://github.com/Lightning-AI/pytorch-lightning/issues/19970); ``torch.load`` does not verify checksums; a resumed
``ModelCheckpoint`` without `dirpath` changes folders and forgets its best score
(https://github.com/Lightning-AI/pytorch-lightning/pull/12045).
Delete when: ``TorchCheckpointIO`` writes next to the target and verifies what it reads, and resuming keeps `dirpath`.
"""

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

from tmkd_lightning.utils.checkpoint_reading import read_checkpoint
from tmkd_lightning.utils.files import atomic_write, unfinished
from tmkd_lightning.utils.secrets import without_secrets

_HPARAMS = [kind.CHECKPOINT_HYPER_PARAMS_KEY for kind in (LightningModule, LightningDataModule)]
_ABANDONED = 600  # seconds without a write after which a temporary file is a leftover


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically, without secrets in their hyperparameters, and refuses to read damaged ones.

    The command line uses it by default; in Python it is ``Trainer(plugins=[AtomicCheckpointIO()])``.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp()) / "last.ckpt"
        >>> AtomicCheckpointIO().save_checkpoint({"global_step": 3}, path)
        >>> AtomicCheckpointIO().load_checkpoint(path)
        {'global_step': 3}
    """

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Reads a checkpoint after verifying it; raises ValueError if it is damaged."""
        if "://" not in str(path):
            check_whole(Path(path))
        return super().load_checkpoint(path, *args, **kwargs)

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes a local checkpoint atomically; remote paths are left to Lightning."""
        checkpoint = {name: without_secrets(part) if name in _HPARAMS else part for name, part in checkpoint.items()}
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        _remove_leftovers(Path(path))
        with atomic_write(Path(path)) as file:
            torch.save(checkpoint, file)


def check_whole(path: Path) -> None:
    """Raises ValueError for a damaged checkpoint, with the names of the whole ones in its folder.

    Example:
        >>> from tempfile import mkdtemp
        >>> folder = Path(mkdtemp())
        >>> AtomicCheckpointIO().save_checkpoint({"global_step": 3}, folder / "best.ckpt")
        >>> count = (folder / "last.ckpt").write_bytes((folder / "best.ckpt").read_bytes()[:100])
        >>> check_whole(folder / "last.ckpt")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: .../last.ckpt is damaged or cut off: resume from a whole checkpoint beside it, best.ckpt
    """
    if not is_damaged(path):
        return
    others = [other for other in sorted(path.parent.glob("*.ckpt")) if zipfile.is_zipfile(other)]
    names = [other.name for other in others if not is_damaged(other)]
    remedy = f"resume from a whole checkpoint beside it, {' or '.join(names)}" if names else "start the run anew"
    raise ValueError(f"{path} is damaged or cut off: {remedy}")


def is_damaged(path: Path) -> bool:
    """Whether a checkpoint was cut off, or one of its checksums does not match; files of another kind are not damaged.

    Example:
        >>> is_damaged(Path(__file__))
        False
    """
    if not path.is_file():
        return False
    with path.open("rb") as file:
        if file.read(2) not in (b"PK", b"P", b"", b"\0\0"):
            return False  # no zip archive; zeros are blocks that were never written
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is not None
    except Exception:  # zipfile raises many kinds on damaged headers
        return True


def keep_folders(trainer: Trainer, path: Path) -> None:
    """Lets each ``ModelCheckpoint`` without a `dirpath` save where it saved the checkpoint that is resumed from."""
    states = read_checkpoint(path).get("callbacks", {})
    for callback in trainer.checkpoint_callbacks:
        if not isinstance(callback, ModelCheckpoint) or callback.dirpath is not None:
            continue
        folder = states.get(callback.state_key, {}).get("dirpath")
        if folder is not None and Path(folder).resolve() == path.parent.resolve():
            callback.dirpath = folder


def _remove_leftovers(path: Path) -> None:
    """Removes temporary files that killed runs left behind; each is as large as a checkpoint."""
    path = path.resolve()  # temporary files are made next to the target of a link
    for part in path.parent.glob(f"{glob.escape(unfinished(path))}*"):
        with suppress(FileNotFoundError):  # another process has just moved or removed it
            if time.time() - part.stat().st_mtime > _ABANDONED:
                part.unlink()
