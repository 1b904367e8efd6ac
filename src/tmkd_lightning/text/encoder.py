"""The interface of text encoders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class TextEncoder(Protocol):
    """Turns prompts into embeddings; large weights are loaded in `encode` and dropped after it."""

    def identity(self) -> str:
        """Names encoder and weights, as key of the cache: equal identities give equal embeddings."""
        ...

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Encodes at least one prompt to L2-normalised embeddings ``(N, E)``, float32 on the CPU."""
        ...
