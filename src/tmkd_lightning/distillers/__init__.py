"""Distillation methods: each compares the outputs of any student and any teacher, TMKD's fused teacher too."""

from tmkd_lightning.distillers.base import Distiller, Sum
from tmkd_lightning.distillers.cat_kd import CATKD
from tmkd_lightning.distillers.feature_kl import FeatureKL
from tmkd_lightning.distillers.kd import KD
from tmkd_lightning.distillers.queue_kl import QueueKL
from tmkd_lightning.distillers.rkd import RKD
from tmkd_lightning.distillers.sp import SP
from tmkd_lightning.distillers.tekap import TeKAP

__all__ = ["CATKD", "KD", "RKD", "SP", "Distiller", "FeatureKL", "QueueKL", "Sum", "TeKAP"]
