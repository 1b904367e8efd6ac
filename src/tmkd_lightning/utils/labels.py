"""A label is a distribution over the classes; where it is missing, the teacher's own answer stands in."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def check_labels(labels: Tensor, images: int, num_classes: int) -> None:
    """Refuses labels that are neither a class nor a distribution for each image; meant for the host."""
    expected = f"labels must be {images} classes, or distributions of shape ({images}, {num_classes})"
    soft = labels.ndim == 2
    whole = not labels.is_floating_point() and labels.dtype != torch.bool
    if labels.shape != ((images, num_classes) if soft else (images,)) or not (soft or whole):
        raise ValueError(f"{expected}; got shape {tuple(labels.shape)} of {labels.dtype}")
    if not soft:
        low, high = int(labels.min()), int(labels.max())
        if low < -1 or high >= num_classes:
            wrong = f"label {low if low < -1 else high} is outside 0..{num_classes - 1} (-1 stands for none)"
            raise ValueError(f"{wrong}: the network has {num_classes} classes")
        return
    rows = labels[~(labels == -1).all(1)].double()
    if not (rows >= 0).all():  # so is NaN refused
        worst = rows[~(rows >= 0).all(1)][0].min()
        raise ValueError(f"{expected}, whose parts are at least 0 (a whole row of -1 stands for none); got {worst:.4g}")
    sums = rows.sum(1)
    far = (sums - 1).abs() > (2e-2 if labels.element_size() == 2 else 1e-3)
    if far.any():
        raise ValueError(f"{expected}, which sum to 1; the row of one image sums to {sums[far][0]:.4g}")


def as_distribution(labels: Tensor) -> Tensor:
    """Float rows ``(B, K)`` that sum to 1, however coarsely half precision has rounded them."""
    rows = labels.to(torch.promote_types(labels.dtype, torch.float32))
    return rows / rows.sum(1, keepdim=True).abs() if labels.is_floating_point() and rows.dtype != labels.dtype else rows


def known_part(labels: Tensor | None, images: int, num_classes: int, device: torch.device) -> Tensor:
    """Labels as rows ``(B, K)``: a distribution where there is one, zeros where there is none."""
    if labels is None:
        return torch.zeros(images, num_classes, device=device)
    if labels.ndim == 2:
        return labels.clamp(min=0)
    return F.one_hot(labels + 1, num_classes + 1)[:, 1:].float()  # -1 falls into the column that is cut off


def main_class(labels: Tensor) -> Tensor:
    """The class ``(B,)`` of each image: of a distribution ``(B, K)``, the likeliest."""
    return labels if labels.ndim == 1 else labels.argmax(dim=1)


def complete(labels: Tensor, answer: Tensor) -> Tensor:
    """Fills what rows ``(B, K)`` lack of 1 with the teacher's answer, logits ``(B, K)``.

    Example:
        >>> complete(torch.tensor([[0.0, 0.0], [0.5, 0.0], [0.0, 1.0]]), torch.zeros(3, 2)).tolist()
        [[0.5, 0.5], [0.75, 0.25], [0.0, 1.0]]
    """
    answer = answer.detach().to(torch.promote_types(answer.dtype, labels.dtype)).softmax(dim=1)
    return labels + (1 - labels.sum(1, keepdim=True)) * answer


def mixed(mix: Mix, images: Tensor, labels: Tensor, num_classes: int, check: bool) -> tuple[Tensor, Tensor]:
    """Calls `mix`; checking what it returns waits for the device."""
    result = mix(images, labels)
    if not check:
        return result
    if not (isinstance(result, (tuple, list)) and len(result) == 2 and all(isinstance(one, Tensor) for one in result)):
        raise TypeError(f"mix must return images and labels, got {type(result).__name__}")
    new_images, new_labels = result
    expected = (len(images), num_classes)
    if new_images.shape != images.shape or not new_labels.is_floating_point() or new_labels.shape != expected:
        raise ValueError(
            f"mix must return images {tuple(images.shape)} and float labels {expected}, got "
            f"{tuple(new_images.shape)} and {tuple(new_labels.shape)} of {new_labels.dtype}"
        )
    sums = new_labels.sum(1)
    if not ((new_labels >= 0).all() and (sums < 1.01).all() and (labels.ndim == 2 or (sums > 0.99).all())):
        raise ValueError(
            f"mix must return labels of at least 0 that sum to 1, got sums of {sums.min():.4g} to {sums.max():.4g}"
        )
    return result
