"""Loss functions: pure, un-weighted, in float32 or better whatever the autocast."""

from tmkd_lightning.losses.cam import class_attention
from tmkd_lightning.losses.kl import check_temperature, feature_kl, logit_kl
from tmkd_lightning.losses.rkd import rkd_angle, rkd_distance
from tmkd_lightning.losses.sp import similarity_preserving
from tmkd_lightning.losses.tekap import tekap_kl
from tmkd_lightning.losses.text_contrastive import text_contrast

__all__ = [
    "check_temperature",
    "class_attention",
    "feature_kl",
    "logit_kl",
    "rkd_angle",
    "rkd_distance",
    "similarity_preserving",
    "tekap_kl",
    "text_contrast",
]
