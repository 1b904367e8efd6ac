"""Optimizer and schedule: the paper's warm-up and step decay, scaled to the length of the run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from lightning.pytorch.cli import ReduceLROnPlateau
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

OptimizerCallable = Callable[[Iterable[Any]], Optimizer]
LRSchedulerCallable = Callable[[Optimizer], LRScheduler | ReduceLROnPlateau]

# In epochs of the paper's 120: linear warm-up, then a tenth at each milestone (our choice; the paper says "warm-up and
# stepwise decay" and no more).
_EPOCHS = 120
_WARM_UP = 5
_MILESTONES = (75, 90, 105)


def learning_rate_factor(progress: float) -> float:
    """Warm-up and step decay as a function of the part of the run that is over.

    Args:
        progress: from 0 (start) to 1 (end).

    Returns:
        Factor of the learning rate, in (0, 1].

    Example:
        >>> [round(learning_rate_factor(epoch / 120), 6) for epoch in (2.5, 60, 80, 100, 119)]
        [0.5, 1.0, 0.1, 0.01, 0.001]
    """
    epoch = progress * _EPOCHS
    if epoch < _WARM_UP:
        return max(epoch / _WARM_UP, 1e-3)
    return 0.1 ** sum(epoch >= milestone for milestone in _MILESTONES)


def warm_up_and_step_decay(optimizer: Optimizer, steps: float) -> LambdaLR:
    """The default schedule, stepped with the optimizer.

    Args:
        optimizer: whose learning rates to scale.
        steps: optimizer steps in the whole run; infinite keeps the rate constant.

    Returns:
        The scheduler.

    Source: warm-up and step decay as in the paper; the milestones are our choice.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.01)
        >>> warm_up_and_step_decay(optimizer, steps=120).get_last_lr()
        [0.002]
    """
    if math.isinf(steps):
        return LambdaLR(optimizer, lambda step: 1.0)
    # the step that is about to be taken counts as done, so that the first is not wasted
    return LambdaLR(optimizer, lambda step: learning_rate_factor((step + 1) / steps))


def optimizer_config(
    optimizer: Optimizer, lr_scheduler: LRSchedulerCallable | None, steps: Callable[[], float]
) -> dict[str, Any]:
    """Puts optimizer and schedule together as Lightning wants them.

    Args:
        optimizer: of the run.
        lr_scheduler: makes the user's scheduler, stepped once an epoch; None for the default one.
        steps: gives the number of optimizer steps in the run.

    Returns:
        What ``configure_optimizers`` returns.
    """
    if lr_scheduler is None:
        schedule: dict[str, Any] = {
            "scheduler": warm_up_and_step_decay(optimizer, steps()),
            "interval": "step",
        }
    else:
        scheduler = lr_scheduler(optimizer)
        schedule = {"scheduler": scheduler}
        if isinstance(scheduler, ReduceLROnPlateau):
            schedule["monitor"] = scheduler.monitor
    return {"optimizer": optimizer, "lr_scheduler": schedule}
