"""Forward hooks that keep what passes through layers, each for one forward alone, and compilers that heed them."""

from __future__ import annotations

from threading import RLock, get_ident

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

ONE_AT_A_TIME = RLock()
"""Held by forwards whose hooks are shared, and by first looks at a network."""

_WRAPPED = "_orig_mod"  # where torch.compile keeps the network


class Capture:
    """Keeps the input of one layer and the output of another during a forward.

    A capture belongs to one forward: its hooks hang on the layers only as long as that runs and take no notice of
    other threads, so that threads can share a network and nothing is left on it. Compiled code must find the same
    hooks every time: a capture that is `shared` stays where it hangs, and forwards take turns with it.

    Args:
        shared: whether it serves all forwards of all threads.
    """

    def __init__(self, shared: bool = False) -> None:
        self.thread = None if shared else get_ident()
        self.input: Tensor | None = None
        self.output: Tensor | None = None
        self.handles: list[RemovableHandle] = []

    def hang(self, read_input: nn.Module | None, read_output: nn.Module | None) -> None:
        """Hangs the hooks on the layers, where there are any to read."""
        if read_input is not None:
            self.handles.append(read_input.register_forward_hook(self._keep_input))
        if read_output is not None:
            self.handles.append(read_output.register_forward_hook(self._keep_output))

    def remove(self) -> None:
        """Takes the hooks off again."""
        for handle in self.handles:
            handle.remove()
        self.handles = []

    def take(self) -> tuple[Tensor | None, Tensor | None]:
        """Gives input and output, and holds on to neither."""
        kept = self.input, self.output
        self.input = self.output = None
        return kept

    def _keep_input(self, layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        if self.thread is None or self.thread == get_ident():
            self.input = args[0]

    def _keep_output(self, layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        if self.thread is None or self.thread == get_ident():
            self.output = output


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
    names: list[str] = []
    if isinstance(network, torch.jit.ScriptModule):
        return network, names
    while (inner := network._modules.get(_WRAPPED)) is not None:
        network, names = inner, [""]
    for name, layer in list(network.named_modules()):
        for child, wrapper in list(layer._modules.items()):
            while wrapper is not None and (inner := wrapper._modules.get(_WRAPPED)) is not None:
                layer._modules[child] = wrapper = inner
                names.append(f"{name}.{child}".removeprefix(".").replace(f"{_WRAPPED}.", ""))
    return network, names


def is_compiled(network: nn.Module) -> bool:
    """Whether a network, or a part of it, runs as compiled code.

    Example:
        >>> is_compiled(nn.Sequential(nn.Linear(1, 1)))
        False
    """
    return any(getattr(module, "_compiled_call_impl", None) is not None for module in network.modules())


def notice_hooks() -> None:
    """Has compiled code notice which hooks there are, and forgets what was compiled without them.

    By default code that was compiled before a hook was hung, or for another network of the class, goes on without it.
    """
    if torch._dynamo.config.skip_nnmodule_hook_guards:
        torch._dynamo.config.skip_nnmodule_hook_guards = False
        torch._dynamo.reset()
