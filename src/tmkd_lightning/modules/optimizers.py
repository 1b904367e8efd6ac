"""Optimizer and schedule: the paper's warm-up and step decay, scaled to the length of the run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from lightning.pytorch.cli import ReduceLROnPlateau
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LambdaLR, LRScheduler, OneCycleLR

from tmkd_lightning.modules.schedulers import scheduler_config

OptimizerCallable = Callable[[Iterable[Any]], Optimizer]
LRSchedulerCallable = Callable[[Optimizer], LRScheduler | ReduceLROnPlateau | dict[str, Any]]

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


def configure(module: Any) -> dict[str, Any]:
    """Makes a module's optimizer and schedule.

    The network trains at the base learning rate, everything beside it at `head_lr_factor` times that. The base rate is
    the optimizer's own, or the module's ``lr`` where that is set.

    Args:
        module: a module of ours.

    Returns:
        What ``configure_optimizers`` returns.
    """
    optimizer: Optimizer = module.optimizer(parameter_groups(module, module.extractor))
    groups = optimizer.param_groups
    module.configured_lr = module.lr
    if module.lr is not None:
        base = groups[0]["lr"]
        for group in groups:
            group["lr"] = module.lr * (group["lr"] / base if base else 1.0)
    trained = any(parameter.requires_grad for parameter in module.extractor.parameters())
    for group in groups[1 if trained else 0 :]:
        group["lr"] *= module.head_lr_factor
    config = optimizer_config(
        optimizer, module.lr_scheduler, lambda: module.trainer.estimated_stepping_batches, module.trainer.max_epochs
    )
    scheduler = config["lr_scheduler"]["scheduler"]
    if isinstance(scheduler, (OneCycleLR, CyclicLR)) and (module.lr is not None or module.head_lr_factor != 1):
        rank_zero_warn(
            f"{type(scheduler).__name__} sets the learning rates itself, from its max_lr: lr and head_lr_factor change "
            "nothing; give max_lr as a list with a rate for each parameter group"
        )
    return config


def optimizer_config(
    optimizer: Optimizer,
    lr_scheduler: LRSchedulerCallable | None,
    steps: Callable[[], float],
    epochs: int | None = None,
) -> dict[str, Any]:
    """Puts optimizer and schedule together as Lightning wants them.

    Args:
        optimizer: of the run.
        lr_scheduler: makes the user's scheduler, or Lightning's dict around one; None for the default one.
        steps: gives the number of optimizer steps in the run.
        epochs: ``max_epochs`` of the run.

    Returns:
        What ``configure_optimizers`` returns.
    """
    if lr_scheduler is not None:
        return {"optimizer": optimizer, "lr_scheduler": scheduler_config(lr_scheduler(optimizer), steps, epochs)}
    count = _counted(steps())

    def factor(step: int) -> float:  # no partial, whose state a resumed run would look for by the group's number
        return learning_rate_factor(step, count)

    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}


def take_up_lr(module: Any) -> None:
    """Makes optimizer and schedule again where ``lr`` was set since, as by the callback LearningRateFinder.

    Args:
        module: a module of ours that is about to be trained.
    """
    if module.lr != module.configured_lr:
        module.trainer.strategy.setup_optimizers(module.trainer)


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
