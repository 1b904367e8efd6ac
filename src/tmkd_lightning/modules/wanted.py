"""Callbacks that a module asks for, where the trainer has none of the kind."""

from __future__ import annotations

from collections.abc import Sequence

from lightning.pytorch import Callback, Trainer


def not_in_trainer(trainer: Trainer, wanted: Sequence[Callback]) -> list[Callback]:
    """Leaves out what the user has set up: Lightning would replace theirs with ours.

    Args:
        trainer: with the user's callbacks.
        wanted: what a module would add.

    Returns:
        Those of `wanted` that are of no kind that is there.
    """
    theirs: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return [callback for callback in wanted if not any(isinstance(own, type(callback)) for own in theirs)]
