"""Forward hooks that keep what passes through a layer, and compilers that heed them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_WRAPPED = "_orig_mod"  # where torch.compile keeps the network


class Tap:
    """A forward hook that keeps one tensor while open. A plain object, so that a deep copy of the network and of the
    Extractor goes on sharing it, which a closure over either would not."""

    def __init__(self) -> None:
        self.open = False
        self.value: Tensor | None = None

    def close(self) -> Tensor | None:
        """Gives what was kept, and keeps no more."""
        value, self.open, self.value = self.value, False, None
        return value


class InputTap(Tap):
    """Keeps what goes into a layer."""

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        """Called by the layer."""
        if self.open:
            self.value = args[0]


class OutputTap(Tap):
    """Keeps what comes out of a layer."""

    def attach(self, layer: nn.Module) -> None:
        """Has a layer call this, if it does not: ``sync_batchnorm`` puts another in its place, without hooks."""
        if self not in layer._forward_hooks.values():
            layer.register_forward_hook(self)

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        """Called by the layer."""
        if self.open:
            self.value = output


def out_of_compilers(network: nn.Module) -> tuple[nn.Module, list[str]]:
    """Takes a network, and each of its layers, out of what ``torch.compile`` has put around it.

    Inside of that wrapper layers have longer names, which no checkpoint should have, and hooks come too late.

    Args:
        network: any; layers of it that are wrapped are put in the place of their wrappers.

    Returns:
        The network itself, and the dotted names of what was wrapped.

    Example:
        >>> network = nn.Sequential(torch.compile(nn.Linear(2, 2)), nn.ReLU())
        >>> bare, names = out_of_compilers(network)
        >>> list(bare.state_dict()), names
        (['0.weight', '0.bias'], ['0'])
    """
    names = []
    while (inner := network._modules.get(_WRAPPED)) is not None:
        network, names = inner, [""]
    for name, layer in list(network.named_modules()):
        for child, wrapper in list(layer._modules.items()):
            while wrapper is not None and (inner := wrapper._modules.get(_WRAPPED)) is not None:
                layer._modules[child] = wrapper = inner
                names.append(f"{name}.{child}".removeprefix(".").replace(f"{_WRAPPED}.", ""))
    return network, names


def compile_with_taps(network: nn.Module) -> None:
    """Compiles a network in place, hooks included.

    Code compiled for another network of the class may have had other hooks; only with this guard is it not taken again.
    """
    torch._dynamo.config.skip_nnmodule_hook_guards = False
    network.compile()
