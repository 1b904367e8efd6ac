"""How two outputs are compared: one method a file, any of them with any teacher, TMKD's fused one too."""

from tmkd_lightning.distillers.base import Distiller, Sum, join
from tmkd_lightning.distillers.feature import FeatureKL
from tmkd_lightning.distillers.kd import KD

__all__ = ["KD", "Distiller", "FeatureKL", "Sum", "join"]
