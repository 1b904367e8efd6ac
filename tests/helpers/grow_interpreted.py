"""A script: grows edges by the kernel in Triton's interpreter, which is chosen when Triton is imported."""

import os
import sys

import torch
from torch import Tensor

from tmkd_lightning.views.hysteresis import _pack, _unpack


def grow(weak: Tensor, strong: Tensor) -> Tensor:
    from tmkd_lightning.views.hysteresis_triton import grow_all

    return _unpack(grow_all(_pack(weak & strong), _pack(weak)), weak.shape[-1])


if __name__ == "__main__":
    os.environ["TRITON_INTERPRET"] = "1"
    source, target = sys.argv[1:]
    torch.save({name: grow(*masks) for name, masks in torch.load(source).items()}, target)
