"""Edge tracking: the last step of Canny, without floating-point work and with few looks at the result."""

from __future__ import annotations

from torch import Tensor

_ROUNDS = 8  # between looks at whether anything changed; a look waits for the device


def hysteresis(weak: Tensor, strong: Tensor) -> Tensor:
    """Keeps the weak pixels that are connected to a strong one through weak pixels, over all 8 neighbours.

    Args:
        weak: pixels that may belong to an edge, ``(..., H, W)``, boolean; includes the strong ones.
        strong: pixels that belong to an edge, ``(..., H, W)``, boolean.

    Returns:
        The edge pixels, ``(..., H, W)``, boolean: the fixed point of growing `strong` within `weak`.

    Source: Canny 1986; the same fixed point as ``kornia.filters.canny``.

    Example:
        >>> import torch
        >>> weak = torch.tensor([[1, 1, 1, 0, 1]], dtype=torch.bool)
        >>> strong = torch.tensor([[1, 0, 0, 0, 0]], dtype=torch.bool)
        >>> hysteresis(weak, strong).int().tolist()
        [[1, 1, 1, 0, 0]]
    """
    edges = strong & weak
    while True:
        before = edges
        for _ in range(_ROUNDS):
            edges = _dilate(edges) & weak
        if edges.equal(before):
            return edges


def _dilate(mask: Tensor) -> Tensor:
    """A pixel is set if it or one of its 8 neighbours was: first along columns, then along rows."""
    tall = mask.clone()
    tall[..., 1:, :] |= mask[..., :-1, :]
    tall[..., :-1, :] |= mask[..., 1:, :]
    wide = tall.clone()
    wide[..., 1:] |= tall[..., :-1]
    wide[..., :-1] |= tall[..., 1:]
    return wide
