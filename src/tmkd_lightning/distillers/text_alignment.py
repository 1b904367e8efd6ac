"""Anchors the student to the text space (Eq. 9 to 11)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tmkd_lightning.losses import check_temperature, text_contrast
from tmkd_lightning.utils.validation import check_count, check_weight


class TextAnchor(nn.Module):
    """Contrasts the student's embedding with the texts of classes, both projected to one space.

    Args:
        student_dim: width of the student's embedding.
        text_dim: width E of the text embeddings.
        head_dim: width of the common space. 128 is customary in the code that the paper builds on.
        temperature: τ, above 0.
        weight: factor of the loss, at least 0.
        negatives: with how many other classes, drawn anew at every step, the classes of a batch are contrasted; None
            for all.

    Raises:
        ValueError: a temperature that is not positive, a weight below 0 or not finite, or `negatives` below 1.

    Source: Eq. 9 to 11.

    Example:
        >>> anchor = TextAnchor(student_dim=4, text_dim=8)
        >>> anchor(torch.rand(2, 4), torch.rand(3, 8), torch.tensor([0, 2]))["text"].item() > 0
        True
    """

    def __init__(
        self,
        student_dim: int,
        text_dim: int,
        head_dim: int = 128,
        temperature: float = 0.07,
        weight: float = 0.8,
        negatives: int | None = None,
    ) -> None:
        super().__init__()
        self.negatives = None if negatives is None else check_count("negatives", negatives)
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
        left_out = None
        if self.negatives is not None and self.negatives < len(anchors) - 1:
            chosen, left_out = sample_classes(label, len(anchors), self.negatives)
            anchors, label = anchors[chosen], (chosen == label.unsqueeze(1)).int().argmax(1)
        image, text = self.image_head(embedding), self.text_head(anchors)
        return {"text": self.weight * text_contrast(image, text, label, self.temperature, left_out)}


def sample_classes(label: Tensor, num_classes: int, others: int) -> tuple[Tensor, Tensor]:
    """Draws classes that are not in a batch, each as likely as any other; nothing waits for the device.

    How many classes a batch holds is known on the device alone, so there are always ``B + others`` rows, or K if that
    is less, of which those that are too many are marked.

    Args:
        label: of the batch, ``(B,)``, in 0..K-1.
        num_classes: K.
        others: how many to draw.

    Returns:
        Classes ``(min(B + others, K),)``, no two the same: those of the batch, then others. And which of
        them are too many.

    Example:
        >>> chosen, left_out = sample_classes(torch.tensor([7, 7]), num_classes=9, others=3)
        >>> chosen[0].item(), left_out.tolist()
        (7, [False, False, False, False, True])
    """
    order = torch.rand(num_classes, device=label.device).index_fill(0, label, -1.0)
    chosen = order.topk(min(len(label) + others, num_classes), largest=False, sorted=True).indices
    in_batch = (order < 0).sum()
    return chosen, torch.arange(len(chosen), device=label.device) >= in_batch + others
