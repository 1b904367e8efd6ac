"""What a module's checkpoint holds: the student under its own keys, nothing of the teacher, plain hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters
from torch import Tensor, nn

LEFT_OUT = "tmkd_left_out"
"""Key in checkpoints of the names of arguments that were objects."""

_PLAIN = (type(None), bool, int, float, str)
_EXPECTED = {"self", "__class__", "teacher", "student", "network", "optimizer", "lr_scheduler"}  # always passed anew

# The functions below are hooks and not overrides of state_dict, so that they also act where the module is a part of
# another (WeightAveraging, for one), and they hold no module, so that a deep copy carries them along.


def save_under(module: nn.Module, path: str, alias: str) -> None:
    """Saves and loads the tensors of a submodule under another name.

    Args:
        module: owner of the submodule.
        path: dotted name of the submodule.
        alias: name in state dicts instead.

    Example:
        >>> module = nn.Sequential(nn.Sequential(nn.Linear(1, 1, bias=False)))
        >>> save_under(module, path="0.0", alias="head")
        >>> list(module.state_dict())
        ['head.weight']
    """
    module.register_state_dict_post_hook(partial(_rename, f"{path}.", f"{alias}."))
    module.register_load_state_dict_pre_hook(partial(_rename, f"{alias}.", f"{path}."))


def leave_out(module: nn.Module, path: str) -> None:
    """Keeps a submodule out of state dicts: its tensors are neither saved nor, if a file has some, loaded.

    Args:
        module: owner of the submodule.
        path: name of the submodule.

    Example:
        >>> module = nn.ModuleDict({"student": nn.Linear(1, 1, bias=False), "teacher": nn.Linear(1, 1)})
        >>> leave_out(module, "teacher")
        >>> list(module.state_dict())
        ['student.weight']
    """
    module.register_state_dict_post_hook(partial(_drop_saved, path))
    module.register_load_state_dict_pre_hook(partial(_keep_own, path))


def names_under(module: nn.Module, *parts: str) -> list[str]:
    """Names the parameters and buffers of some submodules, as DDP wants to hear which to leave alone.

    Args:
        module: owner of the submodules.
        parts: names of direct submodules.

    Returns:
        Dotted names.

    Example:
        >>> names_under(nn.ModuleDict({"teacher": nn.Linear(1, 1), "student": nn.Linear(1, 1)}), "teacher")
        ['teacher.weight', 'teacher.bias']
    """
    tensors = [name for name, _ in module.named_parameters()] + [name for name, _ in module.named_buffers()]
    return [name for name in tensors if name.split(".")[0] in parts]


def save_plain_hyperparameters(module: LightningModule, arguments: Mapping[str, Any]) -> None:
    """Saves the arguments that a file opened with ``weights_only=True`` may hold; a CLI's config is saved whole.

    Args:
        module: whose hyperparameters to set.
        arguments: of its constructor, by name. Networks, callables and other objects are left out.
    """
    given = _given_hyperparameters.get()
    plain = {name: value for name, value in arguments.items() if _is_plain(value)}
    module.save_hyperparameters(plain if given is None else given)


def objects_among(arguments: Mapping[str, Any]) -> list[str]:
    """Names the arguments that `save_plain_hyperparameters` leaves out and nobody is sure to pass again."""
    if _given_hyperparameters.get() is not None:
        return []  # the CLI's config describes them all
    return sorted(name for name, value in arguments.items() if name not in _EXPECTED and not _is_plain(value))


def check_left_out(left_out: list[str], checkpoint: Mapping[str, Any]) -> None:
    """Refuses to load a checkpoint whose views or method, objects that it does not hold, were not passed again.

    Args:
        left_out: arguments that are objects in the module that loads.
        checkpoint: as Lightning gives it to the module.

    Raises:
        ValueError: an argument was an object when the checkpoint was made, and is a default now.
    """
    missing = [name for name in checkpoint.get(LEFT_OUT, []) if name not in left_out]
    if missing:
        raise ValueError(f"the checkpoint was made with {missing} of its own, which files do not hold: pass them again")


def _is_plain(value: object) -> bool:
    if isinstance(value, Mapping):
        return type(value) is dict and all(_is_plain(part) for part in [*value, *value.values()])
    if isinstance(value, (list, tuple)):
        return type(value) in (list, tuple) and all(_is_plain(part) for part in value)
    return type(value) in _PLAIN


def _rename(old: str, new: str, module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    for key in [key for key in state if key.startswith(prefix + old)]:
        state[prefix + new + key.removeprefix(prefix + old)] = state.pop(key)


def _drop_saved(path: str, module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    for key in [key for key in state if key.startswith(f"{prefix}{path}.")]:
        del state[key]


def _keep_own(path: str, module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    _drop_saved(path, module, state, prefix)
    state.update({f"{prefix}{path}.{key}": value for key, value in module.get_submodule(path).state_dict().items()})
