"""Kornia's mixing augmentations in the form that modules take."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class KorniaMix(nn.Module):
    """Mixes images and labels by Kornia's ``RandomMixUpV2`` or ``RandomCutMixV2``, for ``mix`` of a module.

    Args:
        augmentation: made with ``data_keys=["input", "class"]``, CutMix also with ``num_mix=1``.
        num_classes: K.

    Example:
        >>> from kornia.augmentation import RandomMixUpV2
        >>> quarter = RandomMixUpV2(lambda_val=torch.tensor([0.25, 0.25]), data_keys=["input", "class"])
        >>> images, labels = KorniaMix(quarter, num_classes=2)(torch.rand(2, 3, 4, 4), torch.tensor([1, 1]))
        >>> labels.tolist()
        [[0.0, 1.0], [0.0, 1.0]]
    """

    def __init__(self, augmentation: nn.Module, num_classes: int) -> None:
        super().__init__()
        if len(getattr(augmentation, "data_keys", None) or []) != 2:
            raise ValueError(f"{type(augmentation).__name__} must be made with data_keys=['input', 'class']")
        self.augmentation, self.num_classes = augmentation, num_classes

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mixes images ``(B, 3, H, W)`` and labels ``(B,)`` or ``(B, K)``; returns labels ``(B, K)``."""
        if labels.ndim == 1:
            labels = F.one_hot(labels, self.num_classes).float()
        rows = torch.arange(len(images), device=images.device)
        mixed, pairs = self.augmentation(images, rows)  # rows instead of classes tell which images were mixed
        if pairs.ndim == 3:  # of CutMix, which may cut several times
            if len(pairs) > 1:
                raise ValueError("patches of several cuts may overlap, which labels do not tell: use num_mix=1")
            pairs = pairs[0]
        _, other, share = pairs.unbind(1)
        if getattr(self.augmentation, "use_correct_lambda", False):
            share = 1 - share  # lambda is then the image's own part
        share = share.to(labels.dtype).unsqueeze(1)
        return mixed, labels * (1 - share) + labels[other.long()] * share
