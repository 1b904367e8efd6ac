"""A module from its checkpoint alone."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.cli import instantiate_module

from tmkd_lightning.modules.base import ClassificationModule
from tmkd_lightning.modules.restored import misfit
from tmkd_lightning.utils.checkpoint_reading import check_parts, read_checkpoint
from tmkd_lightning.utils.messages import short
from tmkd_lightning.utils.state_dict import describe_mismatch

_INSTANTIATOR = "lightning.pytorch.cli.instantiate_module"  # of what the command line has trained


def rebuild(checkpoint: str | Path) -> ClassificationModule:
    """Builds the module that `tmkd` trained, from its checkpoint alone, and loads its weights.

    A teacher's network is built too, but its weights are not in the checkpoint and are not read. The checkpoint names
    the classes of its parts, and they are imported and called: open those of people whom you trust.

    Args:
        checkpoint: file that a run of the command line saved.

    Returns:
        The module on the CPU, in training mode, as any new module.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or was not made by the command line, or a part of it cannot be built.
    """
    path = Path(checkpoint).expanduser()
    content = read_checkpoint(path)
    if not isinstance(content, dict) or "state_dict" not in content:
        raise ValueError(f"{path} is not a checkpoint of a run: it has no state_dict")
    check_parts(content, path)
    recipe = content.get("hyper_parameters") or {}
    class_path = recipe.get("_class_path")
    if class_path is None or recipe.get("_instantiator") != _INSTANTIATOR:
        raise ValueError(
            f"{path} does not say how its module is built, so tmkd did not make it: in Python, use "
            "load_from_checkpoint(path, ...) of its class, with its networks"
        )
    module = _build(path, class_path, recipe)
    _load(module, path, content)
    return module


def _build(path: Path, class_path: str, recipe: Mapping[str, Any]) -> ClassificationModule:
    try:
        import_module(class_path.rpartition(".")[0])
        arguments = {name: value for name, value in recipe.items() if name != "_instantiator"}
        module: LightningModule = instantiate_module(LightningModule, arguments)
    except Exception as error:  # the parser and the parts have errors of many types
        raise ValueError(
            f"{path} cannot be built again as a {class_path}: was it made with another version, or is what it comes "
            f"from neither installed nor in the current folder? ({short(error)})"
        ) from None  # the parser's own message is a dump of the whole config
    if not isinstance(module, ClassificationModule):
        raise ValueError(f"{path} holds a {class_path}, which is no module of this library")
    return module


def _load(module: ClassificationModule, path: Path, content: dict[str, Any]) -> None:
    try:
        module.on_load_checkpoint(content)
        module.load_state_dict(content["state_dict"])
    except Exception as error:  # of weights that do not fit, or of a module's own
        problems = describe_mismatch(content["state_dict"], module.state_dict()) or [short(error)]
        raise ValueError(misfit(path, module.extractor.name, problems)) from error
