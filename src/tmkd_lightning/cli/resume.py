"""What a resumed run takes from its checkpoint, held against what its config says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.utilities import rank_zero_warn

from tmkd_lightning.utils.secrets import redact

_OF_THE_RUN = ("class_path", "student.", "network.")  # with another module or network trained, it is another run
_NAMED = 4  # differences that a message shows


def check_same_run(path: Path, asked: Namespace, taken: Namespace, instead: bool) -> None:
    """Says where the checkpoint's settings of the module win over the config's, which Lightning does without a word.

    Args:
        path: of the checkpoint.
        asked: ``model``, as config and command line have it.
        taken: the same, as the checkpoint has it.
        instead: whether the file takes the place of a damaged one; then it must agree in everything.

    Raises:
        ValueError: it is the checkpoint of another run.

    Example:
        >>> model = Namespace(class_path="TMKDModule", init_args=Namespace(temperature=2.0))
        >>> _settings(model)
        {'class_path': 'TMKDModule', 'temperature': 2.0}
    """
    wanted, found = _settings(asked), _settings(taken)
    names = [name for name in {**found, **wanted} if wanted.get(name) != found.get(name)]
    other = [name for name in names if name.startswith(_OF_THE_RUN)]
    if other or (instead and names):
        raise ValueError(
            f"{path} is the checkpoint of another run than the config's: {_told(other or names, found, wanted)}; give "
            "the config of that run, another --ckpt_path, or none"
        )
    if names:
        rank_zero_warn(f"the settings in {path} hold, and not the config's: {_told(names, found, wanted)}")


def _settings(model: Namespace) -> dict[str, Any]:
    """Values by their names, as one types them on the command line."""
    values = vars(model.as_flat())
    return {
        name.replace("init_args.", "").replace("dict_kwargs.", ""): list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
    }


def _told(names: list[str], found: dict[str, Any], wanted: dict[str, Any]) -> str:
    shown = [(name, redact(found.get(name), name), redact(wanted.get(name), name)) for name in names[:_NAMED]]
    told = [f"{name} {theirs!r} (config: {ours!r})" for name, theirs, ours in shown]
    return ", ".join(told + ([f"and {len(names) - _NAMED} more"] if len(names) > _NAMED else []))
