"""What a checkpoint holds of a module besides its weights: arguments of plain types, and what the run knew."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters

from tmkd_lightning.text.class_names import find_class_names

LEFT_OUT = "tmkd_left_out"
"""Key in checkpoints of the names of arguments that were objects."""

NUM_CLASSES = "tmkd_num_classes"
"""Key in checkpoints of the number of classes."""

CLASS_NAMES = "tmkd_class_names"
"""Key in checkpoints of the class names, or of None where the run knew none."""

TRAINED_CLASS_NAMES = "tmkd_trained_class_names"
"""Key in checkpoints of what the data of the training call the classes, or of None."""

_PLAIN = (type(None), bool, int, float, str)
_EXPECTED = {"self", "__class__", "teacher", "student", "network", "optimizer", "lr_scheduler"}  # always passed anew


def save_plain_hyperparameters(module: LightningModule, arguments: Mapping[str, Any]) -> None:
    """Saves the arguments that a file opened with ``weights_only=True`` may hold; a CLI's config is saved whole.

    Args:
        module: whose hyperparameters to set.
        arguments: of its constructor, by name. Networks, callables and other objects are left out.
    """
    given = _given_hyperparameters.get()
    plain = {name: value for name, value in arguments.items() if _is_plain(value)}
    module.save_hyperparameters(plain if given is None else given)


def constructor_arguments(module: object) -> dict[str, Any]:
    """What the constructor of a module's own class was called with; for a subclass, that is the subclass's.

    Args:
        module: whose constructor is running.

    Returns:
        Arguments by name, those of its ``**kwargs`` among them. What is passed without a name, as ``*args``, is left
        out.
    """
    arguments: dict[str, Any] = {}
    frame = inspect.currentframe()
    while frame is not None:
        names, _, free, values = inspect.getargvalues(frame)
        if frame.f_code.co_name == "__init__" and names and values.get(names[0]) is module:
            named = {name: values[name] for name in names[1:] if name in values}  # one may have been deleted
            arguments = {**named, **(values[free] if free else {})}
        frame = frame.f_back
    return arguments


def objects_among(arguments: Mapping[str, Any]) -> list[str]:
    """Names the arguments that `save_plain_hyperparameters` leaves out and nobody is sure to pass again."""
    if _given_hyperparameters.get() is not None:
        return []  # the CLI's config describes them all
    return sorted(name for name, value in arguments.items() if name not in _EXPECTED and not _is_plain(value))


def write_facts(module: Any, checkpoint: dict[str, Any]) -> None:
    """Writes into a checkpoint what its hyperparameters do not say.

    Args:
        module: a module of ours.
        checkpoint: as Lightning gives it to the module.
    """
    checkpoint[LEFT_OUT] = module.left_out
    checkpoint[NUM_CLASSES] = module.num_classes
    checkpoint[CLASS_NAMES] = find_class_names(module)
    checkpoint[TRAINED_CLASS_NAMES] = module.trained_class_names


def read_facts(module: Any, checkpoint: Mapping[str, Any]) -> None:
    """Takes what the run knew from a checkpoint; refuses one whose views or method, objects it lacks, were not passed.

    Args:
        module: a module of ours.
        checkpoint: as Lightning gives it to the module.

    Raises:
        ValueError: an argument was an object when the checkpoint was made, and is a default now.
    """
    missing = [name for name in checkpoint.get(LEFT_OUT, []) if name not in module.left_out]
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
