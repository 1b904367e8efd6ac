"""The hashing text encoder."""

import pytest
import torch

from tmkd_lightning.text import HashingTextEncoder, TextEncoder

PROMPTS = ["a photo of a cat", "an edge enhanced image of a dog", "a photo of a {fish}"]


@pytest.mark.parametrize(("encoder", "dim"), [(HashingTextEncoder(), 512), (HashingTextEncoder(64), 64)])
def test_hashing(encoder: HashingTextEncoder, dim: int) -> None:
    embeddings = encoder.encode(PROMPTS)
    assert (embeddings.shape, embeddings.dtype) == ((3, dim), torch.float32)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(3))
    assert embeddings[1].equal(HashingTextEncoder(dim).encode(PROMPTS[1:2])[0])  # depends on the prompt alone
    assert str(dim) in encoder.identity()
    assert isinstance(encoder, TextEncoder)


def test_hashing_is_the_same_on_every_machine() -> None:
    """Counts that another machine found, too; Python's own hash would differ in every process."""
    row = HashingTextEncoder(8).encode(["a photo of a cat"])[0]
    torch.testing.assert_close(row * 34**0.5, torch.tensor([-1.0, -2.0, -1.0, 4.0, 0.0, -2.0, 2.0, 2.0]))


@pytest.mark.parametrize(
    ("text", "near", "far"),
    [("black tern", "black terns", "red fox"), ("a photo of a cat", "a photo of a bat", "edges of a dog")],
)
def test_hashing_puts_like_spellings_together(text: str, near: str, far: str) -> None:
    one, two, three = HashingTextEncoder().encode([text, near, far])
    assert one @ two > 0.5 > one @ three


def test_hashing_needs_a_width() -> None:
    with pytest.raises(ValueError, match="dim must be at least 1, got 0"):
        HashingTextEncoder(0)
