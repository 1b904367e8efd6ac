"""Hysteresis, the last step of Canny, on 64 pixels at a time."""

import functools
import warnings
from types import ModuleType

import torch
from torch import Tensor

_ROUNDS_PER_CHECK = 8  # checking whether edges still grow waits for the device
_WORD = 64  # pixels in one int64
_GATHER = 0x0102040810204080  # multiplying by it moves the lowest bit of each byte into the highest byte
_WITHOUT_SIGN = 0x7FFFFFFFFFFFFFFF  # right shifts copy the sign bit


def hysteresis(weak: Tensor, strong: Tensor, rounds: int | None = None) -> Tensor:
    """Selects the weak pixels that are connected to a strong one through weak pixels, over 8 neighbours.

    Masks are boolean, ``(..., H, W)``. `rounds` limits how many pixels an edge may grow from a strong one. Without it,
    edges grow to the fixed point, which is that of `kornia.filters.canny`: on a GPU in one kernel, if Triton is there
    (3.5 or newer, for images up to 512 x 512), and else with a check every 8 rounds, which waits for the GPU.

    Example:
        >>> weak = torch.tensor([[1, 1, 1, 0, 1]], dtype=torch.bool)
        >>> strong = torch.tensor([[1, 0, 0, 0, 0]], dtype=torch.bool)
        >>> hysteresis(weak, strong).int().tolist(), hysteresis(weak, strong, rounds=1).int().tolist()
        ([[1, 1, 1, 0, 0]], [[1, 1, 0, 0, 0]])
    """
    if rounds is not None and rounds < 0:
        raise ValueError(f"rounds must be at least 0, got {rounds}")
    allowed, edges = _pack(weak), _pack(strong & weak)
    edges = _grow_all(edges, allowed) if rounds is None else _grow(edges, allowed, rounds)
    return _unpack(edges, weak.shape[-1])


def _grow_all(edges: Tensor, allowed: Tensor) -> Tensor:
    """Grows to the fixed point."""
    shape = edges.shape
    edges, allowed = edges.reshape(-1, *shape[-2:]), allowed.reshape(-1, *shape[-2:])
    triton = _triton_for(edges.device) if edges.is_cuda else None
    if triton is not None and shape[-2:].numel() <= triton.MAX_WORDS:
        return triton.grow_all(edges, allowed).view(shape)
    return _grow_by_checks(edges, allowed).view(shape)


@functools.cache
def _triton_for(device: torch.device) -> ModuleType | None:
    """The kernel, if Triton is installed and can compile for a GPU; it needs a C compiler and not too old a GPU."""
    try:
        from tmkd_lightning.views import hysteresis_triton
    except ImportError:
        return None
    word = torch.zeros(1, 1, 1, dtype=torch.int64, device=device)
    try:
        hysteresis_triton.grow_all(word, word)
    except Exception as error:  # of Triton, of the C compiler or of the driver
        reason = str(error).strip().partition("\n")[0]
        warnings.warn(f"Triton cannot compile for {device}, so exact edges wait for it: {reason}", stacklevel=2)
        return None
    return hysteresis_triton


def _grow_by_checks(edges: Tensor, allowed: Tensor) -> Tensor:
    """The same, asking the device; images whose edges stop growing are skipped from then on."""
    growing = torch.arange(len(edges), device=edges.device)
    while len(growing):
        before = edges[growing]
        after = _grow(before, allowed[growing], _ROUNDS_PER_CHECK)
        edges[growing] = after
        growing = growing[(after != before).flatten(1).any(1)]
    return edges


def _grow(edges: Tensor, allowed: Tensor, rounds: int) -> Tensor:
    for _ in range(rounds):
        edges = _dilate(edges) & allowed
    return edges


def _dilate(words: Tensor) -> Tensor:
    """Binary dilation over the 8 neighbours: first along columns, then along rows."""
    tall = words.clone()
    tall[..., 1:, :] |= words[..., :-1, :]
    tall[..., :-1, :] |= words[..., 1:, :]
    wide = tall | (tall << 1) | ((tall >> 1) & _WITHOUT_SIGN)
    wide[..., 1:] |= (tall[..., :-1] >> (_WORD - 1)) & 1  # across word borders
    wide[..., :-1] |= tall[..., 1:] << (_WORD - 1)
    return wide


def _pack(mask: Tensor) -> Tensor:
    """Packs rows of pixels into rows of int64 words, the first pixel in the lowest bit."""
    *rows, width = mask.shape
    padded = torch.zeros(*rows, -(-width // _WORD) * _WORD, dtype=torch.bool, device=mask.device)
    padded[..., :width] = mask
    octets = (padded.view(torch.int64) * _GATHER) >> (_WORD - 8)
    return octets.to(torch.uint8).view(torch.int64)


def _unpack(words: Tensor, width: int) -> Tensor:
    octets = words.view(torch.uint8)[..., None]
    pixels = (octets >> torch.arange(8, dtype=torch.uint8, device=words.device)) & 1
    return pixels.flatten(-2)[..., :width].bool()
