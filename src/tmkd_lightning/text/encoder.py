"""What a text teacher must offer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class TextEncoder(Protocol):
    """Turns prompts into embeddings. Holds no weights between calls: large ones are loaded in `encode` and dropped."""

    def identity(self) -> str:
        """Names encoder and weights: two encoders of one identity give the same embeddings. Keys the cache."""
        ...

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Encodes prompts.

        Args:
            prompts: at least one.

        Returns:
            L2-normalised embeddings on the CPU, ``(N, E)``, float32.
        """
        ...
