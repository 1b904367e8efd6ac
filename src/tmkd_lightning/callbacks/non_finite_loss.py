"""Notices losses and weights that are not finite, without waiting for the device at every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_REMEDY = (
    "lower the learning rate, clip gradients (gradient_clip_val), or train in bf16-mixed or 32-true instead of "
    "16-mixed. The last checkpoint is from before it"
)


class FiniteGuard(nn.Module):
    """Remembers, on the device, the first batch and the first term that were not finite.

    Example:
        >>> guard = FiniteGuard()
        >>> guard.begin(epoch=1, batch=3)
        >>> guard.watch(step=7, names=["ce", "kd"], values=torch.tensor([0.5, float("nan")]))
        >>> guard.check()
        Traceback (most recent call last):
        FloatingPointError: loss term 'kd' was not finite at step 7 (batch 3 of epoch 1); ...
    """

    first: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.place, self.watching = (0, 0), True
        self.register_buffer("first", torch.tensor([-1, -1, -1, -1]), persistent=False)  # step, epoch, batch, term

    def reset(self) -> None:
        """Forgets, for a run that begins; from here on it watches."""
        self.watching = True
        self.first.fill_(-1)

    def begin(self, epoch: int, batch: int) -> None:
        """Says which batch the next terms are of.

        Args:
            epoch: its number.
            batch: its number in the epoch.
        """
        self.place = (epoch, batch)

    def watch(self, step: int, names: list[str], values: Tensor) -> None:
        """Notes whether a batch is the first with a term that is not finite; nothing waits for the device.

        Args:
            step: number of the optimizer's step.
            names: of the terms, the same at every step.
            values: of the terms, ``(len(names),)``.
        """
        if not self.watching:
            return
        self.names = names
        bad = ~values.isfinite()
        place = [torch.full_like(self.first[0], number) for number in (step, *self.place)]
        now = torch.stack([*place, bad.int().argmax()])
        self.first = torch.where(bad.any() & (self.first[0] < 0), now, self.first)

    def check(self, gather: Callable[[Tensor], Any] | None = None) -> None:
        """Waits for the device and looks.

        Args:
            gather: collects a tensor ``(4,)`` of every process as ``(processes, 4)``. What one process has noticed must
                stop all of them: its gradients are in everybody's weights.

        Raises:
            FloatingPointError: a term was not finite; the message names it, the step and the batch.
        """
        noticed = (self.first if gather is None else gather(self.first)).view(-1, 4).tolist()
        bad = [(*row, process) for process, row in enumerate(noticed) if row[0] >= 0]
        if bad:
            step, epoch, batch, term, process = min(bad)
            where = f"batch {batch} of epoch {epoch}" + (f" in process {process}" if len(noticed) > 1 else "")
            raise FloatingPointError(
                f"loss term {self.names[term]!r} was not finite at step {step} ({where}); {_REMEDY}"
            )


def check_finite_weights(module: nn.Module) -> None:
    """Refuses to go on with weights that are not finite, as gradients can make them although all losses were.

    Args:
        module: of whose state dict to look at the trained parameters, and at buffers such as BatchNorm's statistics;
            waits for the device once.

    Raises:
        FloatingPointError: one is not finite; the message names it.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> _ = nn.init.constant_(layer.bias, float("inf"))
        >>> check_finite_weights(layer)
        Traceback (most recent call last):
        FloatingPointError: parameter 'bias' is not finite, although all losses were: its gradients ...
    """
    saved = module.state_dict(keep_vars=True)
    finite = {name: good for name, value in saved.items() if (good := _finite(name, value)) is not None}
    if finite and not torch.stack(list(finite.values())).all():
        name = next(name for name, good in finite.items() if not good)
        trained = isinstance(saved[name], nn.Parameter)
        what, cause = ("parameter", "its gradients") if trained else ("buffer", "what its layer was given")
        raise FloatingPointError(
            f"{what} {name!r} is not finite, although all losses were: {cause} overflowed; {_REMEDY}"
        )


def _finite(name: str, value: object) -> Tensor | None:
    """Whether all of a tensor is finite, as a tensor; None for what is not trained and no buffer of numbers.

    Masks and observers of quantization hold infinities on purpose, the statistics of a norm do not.
    """
    if isinstance(value, nn.Parameter):
        return value.detach().isfinite().all() if value.requires_grad else None
    if isinstance(value, Tensor) and value.is_floating_point():
        statistics = name.rpartition(".")[2].startswith("running_")
        return value.isfinite().all() if statistics else ~value.isnan().any()
    return None
