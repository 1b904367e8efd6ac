"""The interface of text encoders, and an encoder that needs no download."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
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


class HashingTextEncoder:
    """Embeds prompts by hashed counts of character n-grams.

    Texts are close if they are spelt alike: the embeddings have **no visual meaning**, so they do not show what TMKD
    gains from a real text encoder.

    Args:
        dim: width of the embeddings, at least 1.

    Example:
        >>> HashingTextEncoder().encode(["a photo of a cat", "a photo of a dog"]).shape
        torch.Size([2, 512])
    """

    def __init__(self, dim: int = 512) -> None:
        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        self.dim = dim

    def identity(self) -> str:
        """Names encoder and width."""
        return f"hashing-char_wb-2-4-{self.dim}"

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Encodes prompts; see `TextEncoder`."""
        from sklearn.feature_extraction.text import HashingVectorizer  # slow to import, and seldom needed

        vectorizer = HashingVectorizer(analyzer="char_wb", ngram_range=(2, 4), n_features=self.dim, norm="l2")
        return torch.from_numpy(vectorizer.transform(list(prompts)).toarray()).float()
