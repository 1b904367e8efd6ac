"""Distillation methods: each compares the outputs of any student and any teacher, TMKD's fused teacher too."""

from tmkd_lightning.distillers.at import AT
from tmkd_lightning.distillers.base import Distiller, LogitDistiller, Sum
from tmkd_lightning.distillers.cat_kd import CATKD
from tmkd_lightning.distillers.crd import CRD
from tmkd_lightning.distillers.dist import DIST
from tmkd_lightning.distillers.dkd import DKD
from tmkd_lightning.distillers.feature_kl import FeatureKL
from tmkd_lightning.distillers.fitnet import FitNet
from tmkd_lightning.distillers.kd import KD
from tmkd_lightning.distillers.nkd import NKD
from tmkd_lightning.distillers.nst import NST
from tmkd_lightning.distillers.pkt import PKT
from tmkd_lightning.distillers.queue_kl import QueueKL
from tmkd_lightning.distillers.relational import RelationalDistiller
from tmkd_lightning.distillers.review_kd import ReviewKD
from tmkd_lightning.distillers.rkd import RKD
from tmkd_lightning.distillers.sdd import SDD
from tmkd_lightning.distillers.simkd import SimKD
from tmkd_lightning.distillers.sp import SP
from tmkd_lightning.distillers.srrl import SRRL
from tmkd_lightning.distillers.tekap import TeKAP
from tmkd_lightning.distillers.ttm import TTM
from tmkd_lightning.distillers.vid import VID
from tmkd_lightning.distillers.vkd import VkD
from tmkd_lightning.distillers.warm_up import WarmUp

__all__ = [
    "AT",
    "CATKD",
    "CRD",
    "DIST",
    "DKD",
    "KD",
    "NKD",
    "NST",
    "PKT",
    "RKD",
    "SDD",
    "SP",
    "SRRL",
    "TTM",
    "VID",
    "Distiller",
    "FeatureKL",
    "FitNet",
    "LogitDistiller",
    "QueueKL",
    "RelationalDistiller",
    "ReviewKD",
    "SimKD",
    "Sum",
    "TeKAP",
    "VkD",
    "WarmUp",
]
