"""Anchors the student to the text space (Eq. 9 to 11)."""

from __future__ import annotations

from torch import Tensor, nn

from tmkd_lightning.arguments import check_count, check_weight
from tmkd_lightning.losses import check_temperature, text_contrast


class TextAnchor(nn.Module):
    """Contrasts the student's embedding with the texts of all classes, both projected to one space.

    Args:
        student_dim: width of the student's embedding.
        text_dim: width E of the text embeddings.
        head_dim: width of the common space. 128 is customary in the code that the paper builds on.
        temperature: τ, above 0.
        weight: factor of the loss, at least 0.

    Raises:
        ValueError: a temperature that is not positive, or a weight below 0 or not finite.

    Source: Eq. 9 to 11.

    Example:
        >>> import torch
        >>> anchor = TextAnchor(student_dim=4, text_dim=8)
        >>> anchor(torch.rand(2, 4), torch.rand(3, 8), torch.tensor([0, 2]))["text"].item() > 0
        True
    """

    def __init__(
        self, student_dim: int, text_dim: int, head_dim: int = 128, temperature: float = 0.07, weight: float = 0.8
    ) -> None:
        super().__init__()
        check_temperature(temperature)
        check_count("head_dim", head_dim)
        self.image_head = nn.Linear(student_dim, head_dim)
        self.text_head = nn.Linear(text_dim, head_dim)
        self.temperature = temperature
        self.weight = check_weight("weight", weight)

    def forward(self, embedding: Tensor, anchors: Tensor, label: Tensor) -> dict[str, Tensor]:
        """Computes the term ``text``.

        Args:
            embedding: of the student, ``(B, D)``.
            anchors: text embedding of each class, ``(K, E)``.
            label: ``(B,)``, in 0..K-1.

        Returns:
            The weighted term by its name.
        """
        image, text = self.image_head(embedding), self.text_head(anchors)
        return {"text": self.weight * text_contrast(image, text, label, self.temperature)}
