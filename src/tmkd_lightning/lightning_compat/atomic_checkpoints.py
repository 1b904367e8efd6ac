"""Atomic and verified checkpoint files, and the folder that a resumed run saves to.

Works around: Lightning saves through the system's temporary folder, and moving a file between disks is not atomic
(https://github.com/Lightning-AI/pytorch-lightning/issues/19970); ``torch.load`` does not verify checksums; a resumed
``ModelCheckpoint`` without `dirpath` changes folders and forgets its best score
(https://github.com/Lightning-AI/pytorch-lightning/pull/12045).
Delete when: ``TorchCheckpointIO`` writes next to the target and verifies what it reads, and resuming keeps `dirpath`.
"""

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
from tmkd_lightning.utils.files import atomic_write, temporary_prefix
from tmkd_lightning.utils.secrets import without_secrets


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
        """Verifies a local checkpoint, and reads it."""
        if "://" not in str(path):
            check_whole(Path(path))
        return super().load_checkpoint(path, *args, **kwargs)

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes a local checkpoint atomically, and leaves remote paths to Lightning."""
        hparams = {kind.CHECKPOINT_HYPER_PARAMS_KEY for kind in (LightningModule, LightningDataModule)}
        checkpoint = {name: without_secrets(part) if name in hparams else part for name, part in checkpoint.items()}
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path).resolve()
        leftovers = f"{glob.escape(temporary_prefix(target))}*"  # of killed runs; each as large as a checkpoint
        for leftover in target.parent.glob(leftovers):
            with suppress(FileNotFoundError):  # another process has just moved or removed it
                if time.time() - leftover.stat().st_mtime > 600:
                    leftover.unlink()
        with atomic_write(Path(path)) as file:
            torch.save(checkpoint, file)


def check_whole(path: Path) -> None:
    """Raises ValueError for a damaged checkpoint, and names the whole ones in its folder."""
    if not is_damaged(path):
        return
    others = sorted(path.parent.glob("*.ckpt"))
    names = [other.name for other in others if zipfile.is_zipfile(other) and not is_damaged(other)]
    remedy = f"resume from a whole checkpoint beside it, {' or '.join(names)}" if names else "start the run anew"
    raise ValueError(f"{path} is damaged or cut off: {remedy}")


def is_damaged(path: Path) -> bool:
    """Whether a file is a zip archive that was cut off or has a wrong checksum."""
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
    """Lets each ``ModelCheckpoint`` without a `dirpath` save beside the checkpoint that it made and that is resumed."""
    states = read_checkpoint(path).get("callbacks", {})
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
            folder = states.get(callback.state_key, {}).get("dirpath")
            if folder is not None and Path(folder).resolve() == path.parent.resolve():
                callback.dirpath = folder
