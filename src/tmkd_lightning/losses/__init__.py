"""Loss functions: pure, un-weighted, in float32 or better whatever the autocast."""

from tmkd_lightning.losses.contrast import text_contrast
from tmkd_lightning.losses.divergence import check_temperature, feature_kl, logit_kl
from tmkd_lightning.losses.perturbation import perturb

__all__ = ["check_temperature", "feature_kl", "logit_kl", "perturb", "text_contrast"]
