"""Networks for small images, and weights from files."""

from tmkd_lightning.models.checkpoints import load_weights
from tmkd_lightning.models.wrn import WideResNet, wrn_16_2, wrn_40_1, wrn_40_2

__all__ = ["WideResNet", "load_weights", "wrn_16_2", "wrn_40_1", "wrn_40_2"]
