"""Compares the settings in a checkpoint with those of the config that resumes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.utilities import rank_zero_warn

from tmkd_lightning.utils.secrets import redact

_IDENTITY = ("class_path", "student.", "network.")  # another module or network is another run
_MAX_DIFFERENCES = 4  # in a message


def check_same_run(path: Path, config: Namespace, loaded: Namespace) -> None:
    """Warns where the checkpoint's settings of the module replace the config's, which Lightning does silently.

    `config` is ``model`` from config and command line, `loaded` the same with the checkpoint's hyperparameters. Raises
    ValueError for the checkpoint of another module or network.
    """
    ours, theirs = _settings(config), _settings(loaded)
    names = [name for name in {**theirs, **ours} if ours.get(name) != theirs.get(name)]
    other = [name for name in names if name.startswith(_IDENTITY)]
    shown = [(name, redact(theirs.get(name), name), redact(ours.get(name), name)) for name in (other or names)]
    text = ", ".join(f"{name} {saved!r} (config: {given!r})" for name, saved, given in shown[:_MAX_DIFFERENCES])
    text += f", and {len(shown) - _MAX_DIFFERENCES} more" if len(shown) > _MAX_DIFFERENCES else ""
    if other:
        raise ValueError(
            f"{path} is the checkpoint of another run than the config's: {text}; give the config of that run, another "
            "--ckpt_path, or none"
        )
    if names:
        rank_zero_warn(f"the settings in {path} hold, and not the config's: {text}")


def _settings(model: Namespace) -> dict[str, Any]:
    """Settings by their names on the command line."""
    return {
        name.replace("init_args.", "").replace("dict_kwargs.", ""): list(value) if isinstance(value, tuple) else value
        for name, value in vars(model.as_flat()).items()
    }
