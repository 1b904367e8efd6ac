"""Correlations of the class probabilities, of each image over the classes and of each class over the images (DIST)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from tmkd_lightning.losses.kl import prepare_logits

_EPS = 1e-8  # added to the product of the norms, as in the official code


def dist(student: Tensor, teacher: Tensor, beta: float, gamma: float, temperature: float) -> Tensor:
    """One minus the Pearson correlation of the softened class probabilities, by images and by classes.

    ``τ² · (β · (1 − mean correlation of rows) + γ · (1 − mean correlation of columns))``. Of a single image the columns
    have no spread, and the second part is γ. Gradients flow into both arguments.

    Args:
        student: logits, ``(B, K)``.
        teacher: logits, ``(B, K)``.
        beta: β, factor of the part within each image, over its classes.
        gamma: γ, factor of the part within each class, over the images.
        temperature: τ, above 0.

    Returns:
        Scalar, at least 0.

    Source: Huang et al. 2022; the same numbers as their code.

    Example:
        >>> logits = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> dist(logits, -logits, beta=1.0, gamma=1.0, temperature=1.0).item()  # correlations of -1
        4.0
    """
    student, teacher = prepare_logits(student, teacher, temperature)
    student, teacher = F.softmax(student, dim=1), F.softmax(teacher, dim=1)
    of_images, of_classes = (1 - _correlations(student, teacher, dim).mean() for dim in (1, 0))
    return (beta * of_images + gamma * of_classes) * temperature**2


def _correlations(x: Tensor, y: Tensor, dim: int) -> Tensor:
    """Pearson's correlation of x and y along a dimension; 0 where either has no spread."""
    x, y = x - x.mean(dim, keepdim=True), y - y.mean(dim, keepdim=True)
    norms = torch.linalg.vector_norm(x, dim=dim) * torch.linalg.vector_norm(y, dim=dim)
    return (x * y).sum(dim) / (norms + _EPS)
