"""Aligns the student's embedding with the texts of the classes (Eq. 9 to 11)."""

import torch
from torch import Tensor, nn

from tmkd_lightning.losses.text_contrastive import text_contrast
from tmkd_lightning.utils.validation import check_count, check_positive, check_weight


class TextAlignment(nn.Module):
    """Contrasts the student's embedding with the texts of the classes, both projected to one space.

    Each image is compared with texts alone, none with another image: the mean over the images of N processes is that
    of one process with all of them, so there is nothing to gather. Only `negatives` are drawn by each process anew.

    Args:
        student_dim: width D of the student's embedding.
        text_dim: width E of the text embeddings.
        head_dim: width of the common space. 128 is customary in the code that the paper builds on.
        temperature: τ, above 0.
        weight: factor of the loss, at least 0.
        negatives: number of classes that are drawn as negatives at every step, beside those of the batch; None for all.

    Source: Eq. 9 to 11.

    Example:
        >>> alignment = TextAlignment(student_dim=4, text_dim=8)
        >>> alignment(torch.rand(2, 4), torch.rand(3, 8), torch.tensor([0, 2]))["text"].item() > 0
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
        self.image_head = nn.Linear(student_dim, check_count("head_dim", head_dim))
        self.text_head = nn.Linear(text_dim, head_dim)
        self.temperature = check_positive("temperature", temperature)
        self.weight = check_weight("weight", weight)
        self.negatives = None if negatives is None else check_count("negatives", negatives)

    def forward(self, embedding: Tensor, text_embeddings: Tensor, label: Tensor) -> dict[str, Tensor]:
        """Computes the weighted term ``text`` from ``(B, D)``, ``(K, E)`` and labels ``(B,)`` or ``(B, K)``."""
        excluded = None
        if self.negatives is not None and self.negatives < len(text_embeddings) - 1:
            classes, excluded = sample_classes(label, len(text_embeddings), self.negatives)
            text_embeddings = text_embeddings[classes]
            label = (classes == label.unsqueeze(1)).int().argmax(1) if label.ndim == 1 else label[:, classes]
        image, text = self.image_head(embedding), self.text_head(text_embeddings)
        return {"text": self.weight * text_contrast(image, text, label, self.temperature, excluded)}


def sample_classes(label: Tensor, num_classes: int, negatives: int) -> tuple[Tensor, Tensor]:
    """Samples the classes of a batch and others uniformly, without waiting for the device.

    The number of classes in a batch is known on the device alone, so there are always ``min(B + negatives, K)`` classes
    and a mask of those that are too many; distributions ``(B, K)`` may be of any number of classes, so there are K.

    Example:
        >>> classes, excluded = sample_classes(torch.tensor([7, 7]), num_classes=9, negatives=3)
        >>> classes[0].item(), excluded.tolist()
        (7, [False, False, False, False, True])
    """
    order = torch.rand(num_classes, device=label.device)
    if label.ndim == 1:
        order, most = order.index_fill(0, label, -1.0), len(label) + negatives
    else:
        order, most = order.masked_fill(label.sum(0) > 0, -1.0), num_classes
    classes = order.topk(min(most, num_classes), largest=False, sorted=True).indices
    in_batch = (order < 0).sum()
    return classes, torch.arange(len(classes), device=label.device) >= in_batch + negatives
