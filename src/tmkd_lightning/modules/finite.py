"""Notices losses that are not finite, without waiting for the device at every step."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FiniteGuard(nn.Module):
    """Remembers, on the device, the first step and the first term that were not finite.

    Example:
        >>> guard = FiniteGuard()
        >>> guard.watch(step=7, names=["ce", "kd"], values=torch.tensor([0.5, float("nan")]))
        >>> guard.check()
        Traceback (most recent call last):
        FloatingPointError: loss term 'kd' was not finite at step 7; ...
    """

    first: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.register_buffer("first", torch.tensor([-1, -1]), persistent=False)  # step, term

    def watch(self, step: int, names: list[str], values: Tensor) -> None:
        """Notes whether a step is the first with a term that is not finite; nothing waits for the device.

        Args:
            step: number of the step.
            names: of the terms, the same at every step.
            values: of the terms, ``(len(names),)``.
        """
        self.names = names
        bad = ~values.isfinite()
        now = torch.stack([torch.full_like(self.first[0], step), bad.int().argmax()])
        self.first = torch.where(bad.any() & (self.first[0] < 0), now, self.first)

    def check(self) -> None:
        """Waits for the device and looks.

        Raises:
            FloatingPointError: a term was not finite; the message names it and the step.
        """
        step, term = self.first.tolist()
        if step >= 0:
            raise FloatingPointError(
                f"loss term {self.names[term]!r} was not finite at step {step}; lower the learning rate, clip "
                "gradients (gradient_clip_val), or train in bf16-mixed or 32-true instead of 16-mixed. The last "
                "checkpoint is from before it"
            )
