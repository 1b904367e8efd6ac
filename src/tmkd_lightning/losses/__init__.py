"""Loss functions: pure, unweighted, computed in float32 or float64 even under autocast."""

from tmkd_lightning.losses.attention_transfer import attention_transfer
from tmkd_lightning.losses.cam import class_attention
from tmkd_lightning.losses.crd import crd
from tmkd_lightning.losses.dist import dist
from tmkd_lightning.losses.dkd import dkd
from tmkd_lightning.losses.fitnet import hint
from tmkd_lightning.losses.hcl import hcl
from tmkd_lightning.losses.kl import cross_entropy, feature_kl, logit_kl, standardize_logits
from tmkd_lightning.losses.nkd import nkd
from tmkd_lightning.losses.nst import nst
from tmkd_lightning.losses.pkt import pkt
from tmkd_lightning.losses.queue_kl import queue_kl
from tmkd_lightning.losses.rkd import rkd_angle, rkd_distance
from tmkd_lightning.losses.sp import similarity_preserving
from tmkd_lightning.losses.srrl import srrl
from tmkd_lightning.losses.tekap import tekap_kl
from tmkd_lightning.losses.text_contrastive import text_contrast
from tmkd_lightning.losses.ttm import ttm, wttm
from tmkd_lightning.losses.vid import vid
from tmkd_lightning.losses.vkd import vkd

__all__ = [
    "attention_transfer",
    "class_attention",
    "crd",
    "cross_entropy",
    "dist",
    "dkd",
    "feature_kl",
    "hcl",
    "hint",
    "logit_kl",
    "nkd",
    "nst",
    "pkt",
    "queue_kl",
    "rkd_angle",
    "rkd_distance",
    "similarity_preserving",
    "srrl",
    "standardize_logits",
    "tekap_kl",
    "text_contrast",
    "ttm",
    "vid",
    "vkd",
    "wttm",
]
