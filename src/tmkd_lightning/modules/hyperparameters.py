"""What a checkpoint holds of a module besides its weights: plain arguments, and what the run knew of the classes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters

from tmkd_lightning.text.class_names import find_class_names

LEFT_OUT = "tmkd_left_out"  # keys in checkpoints: names of arguments that were objects
NUM_CLASSES = "tmkd_num_classes"
CLASS_NAMES = "tmkd_class_names"  # or None where the run knew none
TRAINED_CLASS_NAMES = "tmkd_trained_class_names"  # as the training data call the classes, or None

_PLAIN = (type(None), bool, int, float, str)
_EXPECTED = {"self", "__class__", "teacher", "student", "network", "optimizer", "lr_scheduler"}  # always passed anew


def save_hyperparameters(module: LightningModule) -> list[str]:
    """Saves the plain arguments of the constructor that is running; of a CLI, its whole config.

    Files are opened with ``weights_only=True``, so they hold no networks, callables or other objects.

    Returns:
        Names of arguments that are left out and that nobody is sure to pass again.
    """
    arguments = _constructor_arguments(module)
    given = _given_hyperparameters.get()
    plain = {name: value for name, value in arguments.items() if _is_plain(value)}
    module.save_hyperparameters(plain if given is None else given)
    if given is not None:
        return []
    return sorted(arguments.keys() - plain.keys() - _EXPECTED)


def _constructor_arguments(module: object) -> dict[str, Any]:
    """Arguments by name of the outermost ``__init__`` of a module that is running, a subclass's perhaps."""
    arguments: dict[str, Any] = {}
    frame = inspect.currentframe()
    while frame is not None:
        names, _, free, values = inspect.getargvalues(frame)
        if frame.f_code.co_name == "__init__" and names and values.get(names[0]) is module:
            named = {name: values[name] for name in names[1:] if name in values}  # one may have been deleted
            arguments = {**named, **(values[free] if free else {})}
        frame = frame.f_back
    return arguments


def write_facts(module: Any, checkpoint: dict[str, Any]) -> None:
    """Adds to a checkpoint what its hyperparameters do not say."""
    checkpoint[LEFT_OUT] = module.unsaved_arguments
    checkpoint[NUM_CLASSES] = module.num_classes
    checkpoint[CLASS_NAMES] = find_class_names(module)
    checkpoint[TRAINED_CLASS_NAMES] = module.trained_class_names


def read_facts(module: Any, checkpoint: Mapping[str, Any]) -> None:
    """Reads what `write_facts` wrote.

    Raises:
        ValueError: an argument was an object when the checkpoint was made, and is a default now.
    """
    missing = [name for name in checkpoint.get(LEFT_OUT, []) if name not in module.unsaved_arguments]
    if missing:
        raise ValueError(f"the checkpoint was made with {missing} of its own, which files do not hold: pass them again")
    module.saved_class_names = checkpoint.get(CLASS_NAMES)
    module.trained_class_names = checkpoint.get(TRAINED_CLASS_NAMES)


def _is_plain(value: object) -> bool:
    if isinstance(value, Mapping):
        return type(value) is dict and all(_is_plain(part) for part in [*value, *value.values()])
    if isinstance(value, (list, tuple)):
        return type(value) in (list, tuple) and all(_is_plain(part) for part in value)
    return type(value) in _PLAIN
