"""Configs of networks, so changed that building one reads no weights: a checkpoint brings its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torchvision
from torchvision.models import list_models

_TORCHVISION = "torchvision.models."
_OFF = {"pretrained": False, "checkpoint_path": None}  # arguments of timm's builders that read weights


def without_weights(config: Any) -> Any:
    """Turns off what would fetch pretrained weights, at any depth: torchvision's ``weights``, timm's ``pretrained``.

    torchvision's builders change a few networks where weights are given; `Pretrained`, which stands in for them, makes
    the same changes and puts the reading off. Other functions and classes are left alone.

    Args:
        config: as the command line writes it, with ``class_path`` and ``init_args``.

    Returns:
        A config that gives a network of the same layers with the same names.

    Example:
        >>> without_weights({"class_path": "timm.create_model", "init_args": {"model_name": "x", "pretrained": True}})
        {'class_path': 'timm.create_model', 'init_args': {'model_name': 'x', 'pretrained': False}}
    """
    if isinstance(config, list):
        return [without_weights(part) for part in config]
    if not isinstance(config, Mapping):
        return config
    config = {name: without_weights(part) for name, part in config.items()}
    builder, arguments = str(config.get("class_path")), config.get("init_args", {})
    if builder.startswith("timm."):
        return {**config, "init_args": {name: _OFF.get(name, value) for name, value in arguments.items()}}
    name = builder.removeprefix(_TORCHVISION)
    if builder.startswith(_TORCHVISION) and name in list_models(torchvision.models) and arguments.get("weights"):
        return _put_off(name, {**arguments, **config.get("dict_kwargs", {})})
    return config


def _put_off(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    own = ("weights", "progress", "num_classes")
    settings = {
        "name": name,
        "num_classes": arguments.get("num_classes", 1000),
        "weights": str(arguments["weights"]).rpartition(".")[2],
        "options": {key: value for key, value in arguments.items() if key not in own},
    }
    return {"class_path": "tmkd_lightning.models.Pretrained", "init_args": settings}
