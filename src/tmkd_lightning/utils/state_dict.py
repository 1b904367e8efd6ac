"""What tensors are called in state dicts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from torch import Tensor, nn

_COMPILED = "_orig_mod."
_NAMED = 5  # keys to name in a message

# The first two are hooks and not overrides of state_dict, so that they also act where the module is a part of another
# (WeightAveraging, for one), and they hold no module, so that a deep copy carries them along.


def save_under(module: nn.Module, path: str, alias: str) -> None:
    """Saves and loads the tensors of a submodule under another name.

    Args:
        module: owner of the submodule.
        path: dotted name of the submodule.
        alias: name in state dicts instead. If it is empty, the tensors stand under the owner's own name; the owner
            must then have no others.

    Example:
        >>> module = nn.Sequential(nn.Sequential(nn.Linear(1, 1, bias=False)))
        >>> save_under(module, path="0.0", alias="head")
        >>> list(module.state_dict())
        ['head.weight']
    """
    inside, outside = f"{path}.", f"{alias}." if alias else ""
    module.register_state_dict_post_hook(partial(_rename, inside, outside))
    module.register_load_state_dict_pre_hook(partial(_rename, outside, inside))


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
        parts: dotted names of submodules.

    Returns:
        Dotted names.

    Example:
        >>> names_under(nn.ModuleDict({"teacher": nn.Linear(1, 1), "student": nn.Linear(1, 1)}), "teacher")
        ['teacher.weight', 'teacher.bias']
    """
    tensors = [name for name, _ in module.named_parameters()] + [name for name, _ in module.named_buffers()]
    return [name for name in tensors if name.startswith(tuple(f"{part}." for part in parts))]


def uncompiled(name: str) -> str:
    """The name of a tensor without what ``torch.compile`` puts before it, of the whole network or of a layer.

    Example:
        >>> uncompiled("_orig_mod.layer1._orig_mod.weight")
        'layer1.weight'
    """
    return name.replace(_COMPILED, "")


def differences(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """Says how one state dict differs from another in names and shapes.

    Args:
        found: tensors by name, from a file.
        wanted: tensors by name, of a network.

    Returns:
        A phrase for each kind of difference; none if the one can be loaded as the other.

    Example:
        >>> differences(nn.Linear(2, 3).state_dict(), nn.Linear(2, 1, bias=False).state_dict())
        ['unknown keys: bias', 'other shapes: weight is (3, 2) instead of (1, 2)']
    """
    missing = [key for key in wanted if key not in found]
    unknown = [key for key in found if key not in wanted]
    reshaped = [
        f"{key} is {tuple(found[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in wanted
        if key in found and found[key].shape != wanted[key].shape
    ]
    return [
        f"{title}: {', '.join(keys[:_NAMED])}" + (f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else "")
        for title, keys in (("missing keys", missing), ("unknown keys", unknown), ("other shapes", reshaped))
        if keys
    ]


def _rename(old: str, new: str, module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    for key in [key for key in state if key.startswith(prefix + old)]:
        state[prefix + new + key.removeprefix(prefix + old)] = state.pop(key)


def _drop_saved(path: str, module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    for key in [key for key in state if key.startswith(f"{prefix}{path}.")]:
        del state[key]


def _keep_own(path: str, module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    _drop_saved(path.partition(".")[0], module, state, prefix)  # as other libraries save teachers
    state.update({f"{prefix}{path}.{key}": value for key, value in module.get_submodule(path).state_dict().items()})
