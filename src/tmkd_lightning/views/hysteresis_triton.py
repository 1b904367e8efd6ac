"""Hysteresis to its fixed point in one kernel: the host starts it and waits for nothing. Needs Triton 3.5 or newer."""

import torch
import triton
from torch import Tensor
from triton import language as tl

if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 5):  # 3.5 came with torch 2.9
    raise ImportError(f"needs Triton 3.5, got {triton.__version__}: older ones cannot compile a gather in this loop")

MAX_WORDS = 4096  # of an image: 448 rows of 7, 512 of 8; 32 KiB, which every GPU's shared memory holds
_WORDS_PER_WARP = 256  # 8 in each thread's registers


def grow_all(edges: Tensor, allowed: Tensor) -> Tensor:
    """Grows `edges` within `allowed` over 8 neighbours until nothing changes.

    Words as in `hysteresis`, int64, ``(N, H, W / 64)``, contiguous, up to `MAX_WORDS` an image.
    """
    grown = torch.empty_like(edges)
    if edges.numel() == 0:
        return grown
    images, height, width = edges.shape
    block = max(32, triton.next_power_of_2(height * width))
    warps = max(1, block // _WORDS_PER_WARP)
    with torch.cuda.device_of(edges):  # Triton starts kernels on the current GPU, whatever their arguments are on
        _grow_kernel[(images,)](edges, allowed, grown, height * width, width, block, num_warps=warps)
    return grown


# One program owns one image and keeps it as a value. A program may not read what it has written to global memory
# without more ado (its threads are not ordered), but values have no order to get wrong: `tl.gather` reads all of its
# operand, and the compiler puts the barriers that this needs around the shared memory that it uses.
@triton.jit
def _grow_kernel(edges_of, allowed_of, grown_of, words, width: tl.constexpr, block: tl.constexpr):
    place = tl.arange(0, block)
    column = place % width
    offset = tl.program_id(0).to(tl.int64) * words + place
    inside = place < words
    allowed = tl.load(allowed_of + offset, mask=inside, other=0).to(tl.uint64, bitcast=True)  # right shifts bring zeros
    edges = tl.load(edges_of + offset, mask=inside, other=0).to(tl.uint64, bitcast=True)
    growing = 1
    while growing != 0:
        above = tl.gather(edges, tl.maximum(place - width, 0), 0)
        below = tl.gather(edges, tl.minimum(place + width, block - 1), 0)
        tall = edges | tl.where(place >= width, above, 0) | tl.where(place + width < words, below, 0)
        wide = tall | (tall << 1) | (tall >> 1)
        if width > 1:  # across word borders
            left = tl.gather(tall, tl.maximum(place - 1, 0), 0)
            right = tl.gather(tall, tl.minimum(place + 1, block - 1), 0)
            wide |= tl.where(column > 0, left >> 63, 0) | tl.where(column < width - 1, right << 63, 0)
        after = wide & allowed
        growing = tl.max((after != edges).to(tl.int32), 0)
        edges = after
    tl.store(grown_of + offset, edges.to(tl.int64, bitcast=True), mask=inside)
