"""Which folder is that of a run, and what figures call it."""

from __future__ import annotations

from pathlib import Path


def run_folder(checkpoint: Path) -> Path:
    """The folder of the run that saved a checkpoint: where it lies, or above Lightning's ``checkpoints``.

    Example:
        >>> run_folder(Path("logs/version_0/checkpoints/last.ckpt")).as_posix()
        'logs/version_0'
    """
    folder = checkpoint.parent
    return folder.parent if folder.name == "checkpoints" else folder


def run_name(folder: Path) -> str:
    """What figures call a run: its folder's name, with the one above where that is a mere version.

    Example:
        >>> run_name(Path("runs/kd")), run_name(Path("logs/version_0"))
        ('kd', 'logs/version_0')
    """
    folder = folder.resolve() if not folder.name else folder
    return f"{folder.parent.name}/{folder.name}" if folder.name.startswith("version_") else folder.name
