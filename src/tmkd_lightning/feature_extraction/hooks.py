"""Forward hooks that capture what passes through layers, and the unwrapping of compiled networks."""

from collections.abc import Sequence
from functools import partial
from threading import RLock, get_ident

import torch
from torch import Tensor, nn

from tmkd_lightning.utils.state_dict import uncompiled

FORWARD_LOCK = RLock()  # held while a network is confirmed, and by forwards that share hooks


class Capture:
    """Captures a layer's input and others' outputs in a thread's forward; if shared, in all, for compiled code."""

    def __init__(
        self,
        input_layer: nn.Module | None,
        output_layer: nn.Module | None,
        more: Sequence[nn.Module] = (),
        shared: bool = False,
    ) -> None:
        self.shared, self.thread = shared, get_ident()
        self.input: Tensor | None = None
        self.output: Tensor | None = None
        self.more: dict[int, Tensor] = {}  # outputs of the layers `more`, by their place
        hooks = [(input_layer, self._capture_input), (output_layer, self._capture_output)]
        hooks += [(layer, partial(self._capture_more, place)) for place, layer in enumerate(more)]
        self._handles = [layer.register_forward_hook(hook) for layer, hook in hooks if layer is not None]

    def detach(self) -> None:
        """Removes the hooks."""
        for handle in self._handles:
            handle.remove()

    def pop(self) -> tuple[Tensor | None, Tensor | None]:
        """Returns the captured input and output and keeps no reference to them; removes hooks that are not shared."""
        if not self.shared:
            self.detach()
        captured = self.input, self.output
        self.input = self.output = None
        return captured

    def pop_more(self) -> list[Tensor]:
        """Likewise the outputs of the other layers, in their order."""
        captured, self.more = [self.more[place] for place in sorted(self.more)], {}
        return captured

    def _capture_input(self, layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        if self.shared or self.thread == get_ident():
            self.input = args[0]

    def _capture_output(self, layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        if self.shared or self.thread == get_ident():
            self.output = output

    def _capture_more(self, place: int, layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        if self.shared or self.thread == get_ident():
            self.more[place] = output


def unwrap_compiled(network: nn.Module) -> tuple[nn.Module, list[str]]:
    """Removes the wrappers of ``torch.compile``, in which hooks come too late; returns the names of those parts too."""
    names: list[str] = []
    if isinstance(network, torch.jit.ScriptModule):
        return network, names
    while (inner := network._modules.get("_orig_mod")) is not None:
        network, names = inner, [""]
    for name, layer in list(network.named_modules()):
        for child, wrapper in list(layer._modules.items()):
            while wrapper is not None and (inner := wrapper._modules.get("_orig_mod")) is not None:
                layer._modules[child] = wrapper = inner
                names.append(uncompiled(f"{name}.{child}".removeprefix(".")))
    return network, names
