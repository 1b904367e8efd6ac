"""Randomness of a training step that depends on where it stands alone: a resumed run draws what it would have drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor


class StepSeeds(Callback):
    """Seeds torch's generators for the length of each training step, and gives them back as they were.

    Noise, views that are drawn and the networks' dropout then follow from (seed, process, epoch, batch), and not from
    what ran before: a run that is resumed draws what an undisturbed one does, and validation or loading in between
    changes nothing. Our modules add it by themselves. NumPy's and Python's generators are left alone.

    Args:
        seed: of the run; by default the one that torch's generator was seeded with, by ``seed_everything`` or by
            chance. It is kept in checkpoints.

    Example:
        >>> seeds, draws = StepSeeds(seed=0), []
        >>> for batch in (3, 4, 3):
        ...     seeds.begin(torch.device("cpu"), 0, 0, batch)
        ...     draws.append(torch.rand(1).item())
        ...     seeds.end()
        >>> draws[0] == draws[2], draws[0] == draws[1]
        (True, False)
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed
        self._before: list[tuple[torch.Generator, Tensor]] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes a seed, the same on all processes, unless there is one."""
        if self.seed is None:
            self.seed = trainer.strategy.broadcast(torch.initial_seed())

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Begins a step."""
        self.begin(pl_module.device, trainer.global_rank, trainer.current_epoch, batch_idx)

    def on_train_batch_end(self, trainer: Trainer, *step: Any) -> None:
        """Ends it."""
        self.end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Ends a step that was broken off."""
        self.end()

    def begin(self, device: torch.device, *place: int) -> None:
        """Seeds the generators of the host and of a device.

        Args:
            device: where the step runs.
            place: numbers that say which step of which process it is.
        """
        generators = [torch.default_generator]
        if device.type == "cuda":
            generators.append(torch.cuda.default_generators[device.index or 0])
        self._before = [(generator, generator.get_state()) for generator in generators]
        low, high = np.random.SeedSequence((self.seed or 0, *place)).generate_state(2)
        for generator in generators:  # torch.manual_seed would take 2 ms where there is no device
            generator.manual_seed(int(high) << 32 | int(low))

    def end(self) -> None:
        """Puts the generators back."""
        for generator, state in self._before:
            generator.set_state(state)
        self._before = []

    def state_dict(self) -> dict[str, Any]:
        """The seed, for a run that is resumed."""
        return {"seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with the seed of the run."""
        self.seed = state_dict["seed"]
