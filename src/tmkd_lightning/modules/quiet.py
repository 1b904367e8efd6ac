"""Silences what Lightning says about things that are meant to be."""

from __future__ import annotations

import warnings

_INTENDED = (  # a teacher that evaluates, a hook that looks at all batches
    r"Found \d+ module\(s\) in eval mode",
    r"You have overridden `on_before_batch_transfer` in `LightningModule`",
)


def silence_intended() -> None:
    """Ignores these warnings from here on, and no others."""
    for message in _INTENDED:
        warnings.filterwarnings("ignore", message=message)
