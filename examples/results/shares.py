"""How hard each term of the loss pulls at the student."""

from __future__ import annotations

from collections import defaultdict
from statistics import mean
from typing import Any

import torch
from stored import StoredViews
from torch import Tensor

from tmkd_lightning import TMKDModule

EVERY = 50  # steps: often enough for a mean, and seldom enough to cost nothing


class Measured(TMKDModule):
    """Notes now and then the length of each term's gradient with respect to the student's weights.

    Tells StoredViews which images a batch holds.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.lengths: defaultdict[str, list[float]] = defaultdict(list)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        if isinstance(self.student_views, StoredViews):
            self.student_views.rows = self.sample_ids(batch)
        return super().training_step(batch, batch_idx)

    def log_losses(self, terms: dict[str, Tensor]) -> Tensor:
        if self.global_step % EVERY == 0:
            for name, term in terms.items():
                self.lengths[name].append(self._length(term))
        return super().log_losses(terms)

    def _length(self, term: Tensor) -> float:
        weights = list(self.student.parameters())
        gradient = torch.autograd.grad(term, weights, retain_graph=True, allow_unused=True)
        return sum(part.square().sum().item() for part in gradient if part is not None) ** 0.5

    def shares(self) -> dict[str, float]:
        """Mean length over the run of each term's gradient, as a share of their sum."""
        lengths = {name: mean(found) for name, found in self.lengths.items()}
        return {name: length / sum(lengths.values()) for name, length in lengths.items()}
