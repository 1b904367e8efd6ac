"""Forward hooks that keep what passes through a layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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


def compile_with_taps(network: nn.Module) -> None:
    """Compiles a network in place, hooks included.

    Code compiled for another network of the class may have had other hooks; only with this guard is it not taken again.
    """
    torch._dynamo.config.skip_nnmodule_hook_guards = False
    network.compile()
