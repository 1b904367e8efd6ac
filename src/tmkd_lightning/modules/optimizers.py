"""Optimizer and schedule: the paper's warm-up and step decay by default, scaled to the length of the run."""

import math
from collections.abc import Callable, Iterable
from typing import Any

from lightning.pytorch.cli import ReduceLROnPlateau
from lightning.pytorch.utilities import rank_zero_warn
from torch.optim import Optimizer
from torch.optim import lr_scheduler as torch_schedulers
from torch.optim.lr_scheduler import CyclicLR, LambdaLR, LRScheduler, OneCycleLR

OptimizerCallable = Callable[[Iterable[Any]], Optimizer]
LRSchedulerCallable = Callable[[Optimizer], LRScheduler | ReduceLROnPlateau | dict[str, Any]]

# In epochs of the paper's 120: linear warm-up, then a tenth at each milestone (our choice; the paper says "warm-up and
# stepwise decay" and no more).
_EPOCHS, _WARM_UP, _MILESTONES = 120, 5, (75, 90, 105)
_BY_GROUP = ("base_lrs", "max_lrs", "lr_lambdas", "base_momentums", "max_momentums")  # lists that schedulers keep


def configure_optimizers(module: Any) -> dict[str, Any]:
    """Makes optimizer and schedule; the base learning rate is the optimizer's own, or the module's ``lr`` if set."""
    network = {id(parameter) for parameter in module.extractor.parameters()}
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    of_network = [parameter for parameter in trained if id(parameter) in network]
    beside = [parameter for parameter in trained if id(parameter) not in network]
    named = {"student" if module.teacher is not None else "network": of_network, "heads": beside}
    optimizer: Optimizer = module.optimizer([{"params": group, "name": name} for name, group in named.items() if group])
    groups, module.configured_lr = optimizer.param_groups, module.lr
    if module.lr is not None:
        base = groups[0]["lr"]
        for group in groups:
            group["lr"] = module.lr * (group["lr"] / base if base else 1.0)
    for group in groups[1 if of_network else 0 :]:
        group["lr"] *= module.head_lr_factor
    if module.lr_scheduler is None:
        steps = _run_length(module.trainer)
        # no partial, whose state a resumed run would look for by the group's number
        scheduler = LambdaLR(optimizer, lambda step: learning_rate_factor(step, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
    config = _scheduler_config(module.lr_scheduler(optimizer), module.trainer)
    scaled = module.lr is not None or module.head_lr_factor != 1
    if scaled and isinstance(config["scheduler"], (OneCycleLR, CyclicLR)):
        rank_zero_warn(
            f"{type(config['scheduler']).__name__} sets the learning rates itself, from its max_lr: lr and "
            "head_lr_factor change nothing; give max_lr as a list with a rate for each parameter group"
        )
    return {"optimizer": optimizer, "lr_scheduler": config}


def learning_rate_factor(step: int, steps: float) -> float:
    """Learning-rate factor in (0, 1] of the step after `step` others; 1 for a run of unknown length, infinite `steps`.

    Example:
        >>> [round(learning_rate_factor(step, steps=120), 6) for step in (0, 4, 74, 75, 90, 119)]
        [0.2, 1.0, 1.0, 0.1, 0.01, 0.001]
    """
    if math.isinf(steps):
        return 1.0
    warm_up = (step + 1) / steps * _EPOCHS / _WARM_UP  # the first step counts, or it would be wasted at rate 0
    decay: float = 0.1 ** sum(step / steps * _EPOCHS >= milestone for milestone in _MILESTONES)
    return min(warm_up, 1.0) * decay


def _run_length(trainer: Any) -> float:
    """Optimizer steps of a run, at least 1; infinite for data without a length, of which Lightning says -1."""
    steps: float = trainer.estimated_stepping_batches
    if steps == 0:
        zero = "limit_train_batches, max_epochs or max_steps is 0"
        raise ValueError(f"there is no training batch: the training set is empty, or {zero}")
    if steps > 0:
        return steps
    remedy = "give max_steps or limit_train_batches, or an lr_scheduler of your own"
    rank_zero_warn(f"the training data have no length, so the learning rate stays as it is, without decay: {remedy}")
    return math.inf


def _scheduler_config(made: Any, trainer: Any) -> dict[str, Any]:
    """Lightning's dict around a scheduler, completed with what a plateau monitors and how often cycles are stepped."""
    config = dict(made) if isinstance(made, dict) else {"scheduler": made}
    if "scheduler" not in config:
        raise ValueError(f"lr_scheduler returned a dict without the key 'scheduler': it has {list(config)}")
    scheduler = config["scheduler"]
    if isinstance(scheduler, torch_schedulers.ReduceLROnPlateau) and config.get("monitor") is None:
        default = {"min": "val/loss", "max": "val/top1"}[scheduler.mode]
        config["monitor"] = getattr(scheduler, "monitor", default)  # the command line's has its own
    if isinstance(scheduler, (OneCycleLR, CyclicLR)):
        config.setdefault("interval", "step")
    if isinstance(scheduler, OneCycleLR):
        _check_length(scheduler.total_steps, config, trainer)
    return config


def _check_length(total: int, config: dict[str, Any], trainer: Any) -> None:
    """Refuses a cycle that would be over before the run, as torch would then; warns of a longer one."""
    interval, frequency = config.get("interval", "epoch"), config.get("frequency", 1)
    length = trainer.estimated_stepping_batches if interval == "step" else trainer.max_epochs
    times = math.inf if length in (None, -1, math.inf) else length // frequency
    if times in (total, math.inf):
        return
    message = (
        f"OneCycleLR was made with total_steps={total}, but this run steps it {times} times, once every "
        f"{'' if frequency == 1 else f'{frequency} '}{interval}{'' if frequency == 1 else 's'}"
    )
    if total < times:
        raise ValueError(f"{message}: give total_steps={times}")
    rank_zero_warn(f"{message}, and so ends in the middle of its cycle: for a whole one give total_steps={times}")


def cover_added_groups(scheduler: LRScheduler) -> None:
    """Lets groups that ``BaseFinetuning`` adds change in proportion to the first; torch's schedulers fail with more."""
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
