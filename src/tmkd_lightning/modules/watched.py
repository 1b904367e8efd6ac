"""The sum of the loss terms, and an eye on whether they are finite."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.trainer.states import TrainerStatus
from torch import Tensor

from tmkd_lightning.callbacks.non_finite_loss import FiniteGuard, check_finite_weights
from tmkd_lightning.modules.batches import BatchModule
from tmkd_lightning.utils.precision import at_least_float32


class WatchedModule(BatchModule):
    """Adds loss terms up, logs each, and stops a run whose terms or weights are not finite.

    Attributes:
        guard: what notices.
    """

    guard: FiniteGuard

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """Adds the loss terms up and logs each by its name.

        Args:
            terms: weighted scalars by name.

        Returns:
            Their sum.
        """
        values = torch.stack([at_least_float32(term) for term in terms.values()])
        self.guard.watch(self.global_step, list(terms), values.detach())
        loss = values.sum()
        self.log_dict({f"train/{name}": term.detach() for name, term in terms.items()})
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

    def on_fit_start(self) -> None:
        """Forgets what an earlier run met."""
        self.guard.reset()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Looks, every now and then, at whether all losses were finite."""
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and (batch_idx + 1) % every == 0:
            self.guard.check(self.all_gather)

    def on_train_epoch_end(self) -> None:
        """Looks again: an epoch may be shorter than that."""
        self.guard.check(self.all_gather)

    def check_finite(self) -> None:
        """Looks before something is saved, and at the weights too.

        Raises:
            FloatingPointError: a loss was not finite, or a weight is not.
        """
        self.guard.check(self.all_gather if self._trains_with_others() else None)
        check_finite_weights(self)

    def _trains_with_others(self) -> bool:
        """Whether all processes come here, and with tensors on the devices that they talk through."""
        return self._trainer is not None and self._trainer.state.status == TrainerStatus.RUNNING
