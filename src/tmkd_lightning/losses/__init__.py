"""Loss functions: pure, unweighted, computed in float32 or float64 even under autocast."""

from tmkd_lightning.losses.cam import class_attention
from tmkd_lightning.losses.kl import cross_entropy, feature_kl, logit_kl
from tmkd_lightning.losses.queue_kl import queue_kl
from tmkd_lightning.losses.rkd import rkd_angle, rkd_distance
from tmkd_lightning.losses.sp import similarity_preserving
from tmkd_lightning.losses.tekap import tekap_kl
from tmkd_lightning.losses.text_contrastive import text_contrast

__all__ = [
    "class_attention",
    "cross_entropy",
    "feature_kl",
    "logit_kl",
    "queue_kl",
    "rkd_angle",
    "rkd_distance",
    "similarity_preserving",
    "tekap_kl",
    "text_contrast",
]
