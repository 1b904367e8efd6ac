"""Edge tracking: the last step of Canny, on 64 pixels at a time and with few looks at the result."""

from __future__ import annotations

import torch
from torch import Tensor

_ROUNDS = 8  # between looks at whether anything changed; a look waits for the device
_WORD = 64  # pixels
_GATHER = 0x0102040810204080  # a product with it moves the lowest bit of each byte into the highest byte
_BUT_SIGN = 0x7FFFFFFFFFFFFFFF  # shifts to the right keep the sign


def hysteresis(weak: Tensor, strong: Tensor, rounds: int | None = None) -> Tensor:
    """Keeps the weak pixels that are connected to a strong one through weak pixels, over all 8 neighbours.

    Args:
        weak: pixels that may belong to an edge, ``(..., H, W)``, boolean; includes the strong ones.
        strong: pixels that belong to an edge, ``(..., H, W)``, boolean.
        rounds: how many pixels far an edge may grow from a strong one; None for as far as it goes. A number spares the
            looks at whether edges still grow, for which a GPU is waited for, and misses what is further away.

    Returns:
        The edge pixels, ``(..., H, W)``, boolean: the fixed point of growing `strong` within `weak`.

    Raises:
        ValueError: a negative number of rounds.

    Source: Canny 1986; the same fixed point as ``kornia.filters.canny``.

    Example:
        >>> weak = torch.tensor([[1, 1, 1, 0, 1]], dtype=torch.bool)
        >>> strong = torch.tensor([[1, 0, 0, 0, 0]], dtype=torch.bool)
        >>> hysteresis(weak, strong).int().tolist(), hysteresis(weak, strong, rounds=1).int().tolist()
        ([[1, 1, 1, 0, 0]], [[1, 1, 0, 0, 0]])
    """
    if rounds is not None and rounds < 0:
        raise ValueError(f"rounds must be at least 0, got {rounds}")
    may, edges = _pack(weak), _pack(strong & weak)
    edges = _grow_all(edges, may) if rounds is None else _grow(edges, may, rounds)
    return _unpack(edges, weak.shape[-1])


def _grow_all(edges: Tensor, may: Tensor) -> Tensor:
    """Grows to the fixed point; images whose edges no longer grow are left alone from then on."""
    shape = edges.shape
    edges, may = edges.reshape(-1, *shape[-2:]), may.reshape(-1, *shape[-2:])
    growing = torch.arange(len(edges), device=edges.device)
    while len(growing):
        before = edges[growing]
        after = _grow(before, may[growing], _ROUNDS)
        edges[growing] = after
        growing = growing[(after != before).flatten(1).any(1)]
    return edges.view(shape)


def _grow(edges: Tensor, may: Tensor, rounds: int) -> Tensor:
    for _ in range(rounds):
        edges = _dilate(edges) & may
    return edges


def _dilate(words: Tensor) -> Tensor:
    """A pixel is set if it or one of its 8 neighbours was: first along columns, then along rows."""
    tall = words.clone()
    tall[..., 1:, :] |= words[..., :-1, :]
    tall[..., :-1, :] |= words[..., 1:, :]
    wide = tall | (tall << 1) | ((tall >> 1) & _BUT_SIGN)
    wide[..., 1:] |= (tall[..., :-1] >> (_WORD - 1)) & 1  # over the borders of the words
    wide[..., :-1] |= tall[..., 1:] << (_WORD - 1)
    return wide


def _pack(mask: Tensor) -> Tensor:
    """Rows of pixels as rows of words, the first pixel in the lowest bit."""
    *rows, width = mask.shape
    padded = torch.zeros(*rows, -(-width // _WORD) * _WORD, dtype=torch.bool, device=mask.device)
    padded[..., :width] = mask
    octets = (padded.view(torch.int64) * _GATHER) >> (_WORD - 8)
    return octets.to(torch.uint8).view(torch.int64)


def _unpack(words: Tensor, width: int) -> Tensor:
    octets = words.view(torch.uint8)[..., None]
    pixels = (octets >> torch.arange(8, dtype=torch.uint8, device=words.device)) & 1
    return pixels.flatten(-2)[..., :width].bool()
