"""Schedulers of the user: how Lightning must step them, and parameter groups that come later."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

_MONITORS = {"min": "val/loss", "max": "val/top1"}  # by the mode of a ReduceLROnPlateau
_BY_GROUP = ("base_lrs", "max_lrs", "lr_lambdas", "base_momentums", "max_momentums")  # lists that schedulers keep


def scheduler_config(made: Any, steps: Callable[[], float], epochs: int | None) -> dict[str, Any]:
    """Says how a scheduler is stepped, where its maker has not said so.

    Args:
        made: a scheduler, or Lightning's dict around one (``scheduler``, ``interval``, ``monitor``, ...).
        steps: gives the number of optimizer steps in the run.
        epochs: ``max_epochs`` of the run.

    Returns:
        Lightning's dict. OneCycleLR and CyclicLR are stepped after every optimizer step, others once an epoch.
        ReduceLROnPlateau looks at ``val/loss`` in mode min and at ``val/top1`` in mode max.

    Raises:
        ValueError: a dict without a scheduler, or a OneCycleLR that is made for another number of steps.
    """
    config = dict(made) if isinstance(made, dict) else {"scheduler": made}
    if "scheduler" not in config:
        raise ValueError(f"lr_scheduler returned a dict without the key 'scheduler': it has {list(config)}")
    scheduler = config["scheduler"]
    if isinstance(scheduler, ReduceLROnPlateau) and config.get("monitor") is None:
        config["monitor"] = getattr(scheduler, "monitor", _MONITORS[scheduler.mode])  # the command line's has its own
    if isinstance(scheduler, (OneCycleLR, CyclicLR)):
        config.setdefault("interval", "step")
    if isinstance(scheduler, OneCycleLR):
        _check_length(scheduler.total_steps, config, steps, epochs)
    return config


def _check_length(total: int, config: dict[str, Any], steps: Callable[[], float], epochs: int | None) -> None:
    """Refuses a cycle that would be over before the run, as torch would then; warns of a longer one."""
    interval, frequency = config.get("interval", "epoch"), config.get("frequency", 1)
    length = steps() if interval == "step" else math.inf if epochs in (None, -1) else epochs
    times = math.inf if length in (-1, math.inf) else length // frequency
    if times in (total, math.inf):
        return
    told = (
        f"OneCycleLR was made with total_steps={total}, but this run steps it {times} times, once every "
        f"{'' if frequency == 1 else f'{frequency} '}{interval}{'' if frequency == 1 else 's'}"
    )
    if total < times:
        raise ValueError(f"{told}: give total_steps={times}")
    rank_zero_warn(f"{told}, and so ends in the middle of its cycle: for a whole one give total_steps={times}")


def cover_added_groups(scheduler: LRScheduler) -> None:
    """Lets a scheduler go on with parameter groups that its optimizer was given later, as by ``BaseFinetuning``.

    A group keeps the learning rate that it came with, and from there on changes in proportion to the first group's.
    torch's own schedulers know the groups of their first step alone, and many fail with more.

    Args:
        scheduler: about to be stepped.
    """
    first, *others = scheduler.optimizer.param_groups
    ratios = [1.0, *(group["lr"] / first["lr"] if first["lr"] else 1.0 for group in others)]
    for group, ratio in zip(others, ratios[1:], strict=True):
        for name in first.keys() - group.keys():  # initial_lr, and OneCycleLR's
            group[name] = first[name] * ratio if name.endswith("lr") else first[name]
    for part in [scheduler, *vars(scheduler).get("_schedulers", [])]:  # SequentialLR and ChainedScheduler
        for name in _BY_GROUP:
            values = vars(part).get(name)
            if isinstance(values, list) and values:
                missing = ratios[len(values) :]
                values += [values[0] * ratio if name.endswith("lrs") else values[0] for ratio in missing]
