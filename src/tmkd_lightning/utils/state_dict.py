"""Names of tensors in state dicts."""

from collections.abc import Mapping
from functools import partial

from torch import Tensor, nn

_MAX_KEYS = 5  # in a message

# The first two register hooks and do not override state_dict, so that they also act where the module is a part of
# another (WeightAveraging, for one); the hooks hold no module, so that a deep copy carries them along.


def alias_submodule(module: nn.Module, path: str, alias: str) -> None:
    """Saves and loads the tensors of a submodule under another name; "" is for a module without other tensors."""
    inside, outside = f"{path}.", f"{alias}." if alias else ""
    module.register_state_dict_post_hook(partial(_rename, inside, outside))
    module.register_load_state_dict_pre_hook(partial(_rename, outside, inside))


def exclude_from_state_dict(module: nn.Module, path: str) -> None:
    """Neither saves nor loads the tensors of a submodule."""
    module.register_state_dict_post_hook(partial(_drop, path))
    module.register_load_state_dict_pre_hook(partial(_keep_own, path))


def parameter_names(module: nn.Module, *paths: str) -> list[str]:
    """Dotted names of the parameters and buffers of submodules, for DDP to ignore."""
    tensors = [name for name, _ in module.named_parameters()] + [name for name, _ in module.named_buffers()]
    return [name for name in tensors if name.startswith(tuple(f"{path}." for path in paths))]


def uncompiled(name: str) -> str:
    """The name of a tensor without the prefixes of ``torch.compile``."""
    return name.replace("_orig_mod.", "")


def describe_mismatch(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """Describes missing keys, unknown keys and other shapes of a state dict; empty if it can be loaded."""
    shapes = {key: (tuple(found[key].shape), tuple(value.shape)) for key, value in expected.items() if key in found}
    problems = {
        "missing keys": [key for key in expected if key not in found],
        "unknown keys": [key for key in found if key not in expected],
        "other shapes": [f"{key} is {one} instead of {other}" for key, (one, other) in shapes.items() if one != other],
    }
    return [
        f"{title}: {', '.join(keys[:_MAX_KEYS])}" + f" and {len(keys) - _MAX_KEYS} more" * (len(keys) > _MAX_KEYS)
        for title, keys in problems.items()
        if keys
    ]


def _rename(old: str, new: str, module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    for key in [key for key in state if key.startswith(prefix + old)]:
        state[prefix + new + key.removeprefix(prefix + old)] = state.pop(key)


def _drop(path: str, module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    for key in [key for key in state if key.startswith(f"{prefix}{path}.")]:
        del state[key]


def _keep_own(path: str, module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    _drop(path.partition(".")[0], module, state, prefix)  # with all that other libraries save there
    state.update({f"{prefix}{path}.{key}": value for key, value in module.get_submodule(path).state_dict().items()})
