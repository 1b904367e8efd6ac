"""Seeds each step from (seed, rank, epoch, batch), so resuming is exact.

Works around: Lightning does not restore random generators when a run is resumed
(https://github.com/Lightning-AI/pytorch-lightning/issues/17543).
Delete when: checkpoints hold the generators' states of every process, and resuming restores them before each step.
"""

from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor


class StepSeeds(Callback):
    """Seeds each step from (seed, rank, epoch, batch), so resuming is exact.

    Torch's generators are restored after the step, so validation and loading in between change nothing. NumPy's and
    Python's are left alone. Our modules add this callback.

    Args:
        seed: of the run, saved in checkpoints; by default that of torch's generator, which ``seed_everything`` sets.

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
        """Chooses a seed for all processes unless one is given."""
        if self.seed is None:
            self.seed = trainer.strategy.broadcast(torch.initial_seed())

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Seeds the step."""
        self.begin(pl_module.device, trainer.global_rank, trainer.current_epoch, batch_idx)

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Restores the generators."""
        self.end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restores the generators."""
        self.end()

    def begin(self, device: torch.device, *position: int) -> None:
        """Seeds the generators of the CPU and of `device` from the seed and the step's rank, epoch and batch."""
        generators = [torch.default_generator]
        if device.type == "cuda":
            generators.append(torch.cuda.default_generators[device.index or 0])
        self._before = [(generator, generator.get_state()) for generator in generators]
        low, high = np.random.SeedSequence((self.seed or 0, *position)).generate_state(2)
        for generator in generators:  # torch.manual_seed takes 2 ms where there is no device
            generator.manual_seed(int(high) << 32 | int(low))

    def end(self) -> None:
        """Restores the generators."""
        for generator, state in self._before:
            generator.set_state(state)
        self._before = []

    def state_dict(self) -> dict[str, Any]:
        """The seed."""
        return {"seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the seed."""
        self.seed = state_dict["seed"]
