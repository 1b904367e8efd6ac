"""Loss functions: pure, un-weighted, in float32 or better whatever the autocast."""

from tmkd_lightning.losses.contrast import text_contrast
from tmkd_lightning.losses.divergence import feature_kl, logit_kl

__all__ = ["feature_kl", "logit_kl", "text_contrast"]
