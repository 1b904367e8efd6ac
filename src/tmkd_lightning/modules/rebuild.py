"""A module from its checkpoint alone."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from lightning.pytorch import LightningModule

from tmkd_lightning.models.weights import read_checkpoint
from tmkd_lightning.modules.base import ClassificationModule

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
    path = Path(checkpoint)
    content = read_checkpoint(path)
    if not isinstance(content, dict) or "state_dict" not in content:
        raise ValueError(f"{path} is not a checkpoint of a run: it has no state_dict")
    recipe = content.get("hyper_parameters", {})
    class_path = recipe.get("_class_path")
    if class_path is None or recipe.get("_instantiator") != _INSTANTIATOR:
        raise ValueError(
            f"{path} does not say how its module is built, so tmkd did not make it: in Python, use "
            "load_from_checkpoint(path, ...) of its class, with its networks"
        )
    try:
        import_module(class_path.rpartition(".")[0])  # Lightning builds only classes that are imported already
        module = LightningModule.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the parser, the parts and the loading of weights have errors of many types
        raise ValueError(f"{path} cannot be built again as a {class_path}: {error}") from error
    if not isinstance(module, ClassificationModule):
        raise ValueError(f"{path} holds a {class_path}, which is no module of this library")
    return module
