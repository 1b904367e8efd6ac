"""Optimizer and schedule: the paper's warm-up and step decay, scaled to the length of the run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from lightning.pytorch.cli import ReduceLROnPlateau
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

OptimizerCallable = Callable[[Iterable[Any]], Optimizer]
LRSchedulerCallable = Callable[[Optimizer], LRScheduler | ReduceLROnPlateau]

# In epochs of the paper's 120: linear warm-up, then a tenth at each milestone (our choice; the paper says "warm-up and
# stepwise decay" and no more).
_EPOCHS = 120
_WARM_UP = 5
_MILESTONES = (75, 90, 105)


def learning_rate_factor(step: int, steps: float) -> float:
    """Warm-up and step decay, scaled to the length of the run.

    Args:
        step: optimizer steps that were taken, from 0.
        steps: optimizer steps in the whole run; infinite for no warm-up and no decay.

    Returns:
        Factor of the learning rate of the next step, in (0, 1].

    Source: warm-up and step decay as in the paper; the numbers are our choice.

    Example:
        >>> [round(learning_rate_factor(step, steps=120), 6) for step in (0, 4, 74, 75, 90, 119)]
        [0.2, 1.0, 1.0, 0.1, 0.01, 0.001]
    """
    if math.isinf(steps):
        return 1.0
    warm_up = (step + 1) / steps * _EPOCHS / _WARM_UP  # the first step counts, or it would be wasted at rate 0
    decay: float = 0.1 ** sum(step / steps * _EPOCHS >= milestone for milestone in _MILESTONES)
    return min(warm_up, 1.0) * decay


def parameter_groups(module: nn.Module, network: nn.Module) -> list[dict[str, Any]]:
    """Parts what is trained into the network and everything beside it.

    Args:
        module: owner of all parameters.
        network: the part of it whose parameters come first.

    Returns:
        One or two groups for an optimizer.

    Example:
        >>> pair = nn.Sequential(nn.Linear(1, 1), nn.Linear(2, 2))
        >>> [len(group["params"]) for group in parameter_groups(pair, pair[0])]
        [2, 2]
    """
    first = [parameter for parameter in network.parameters() if parameter.requires_grad]
    known = {id(parameter) for parameter in network.parameters()}
    rest = [p for p in module.parameters() if p.requires_grad and id(p) not in known]
    return [{"params": group} for group in (first, rest) if group]


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
            "scheduler": LambdaLR(optimizer, partial(learning_rate_factor, steps=_counted(steps()))),
            "interval": "step",
        }
    else:
        scheduler = lr_scheduler(optimizer)
        schedule = {"scheduler": scheduler}
        if isinstance(scheduler, ReduceLROnPlateau):
            schedule["monitor"] = scheduler.monitor
    return {"optimizer": optimizer, "lr_scheduler": schedule}


def _counted(steps: float) -> float:
    """Refuses a run without a step; Lightning says -1 of data without a length."""
    if steps > 0:
        return steps
    if steps == 0:
        raise ValueError(
            "there is no training batch: the training set is empty, or limit_train_batches, max_epochs or max_steps is "
            "0"
        )
    rank_zero_warn(
        "the training data have no length, so the learning rate stays as it is, without warm-up and decay: give "
        "max_steps or limit_train_batches, or an lr_scheduler of your own"
    )
    return math.inf
