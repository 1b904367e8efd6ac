"""Any classifier as a source of logits, embedding and feature map."""

from tmkd_lightning.feature_extraction.ensemble import Ensemble
from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.feature_extraction.output import MissingPartError, Output
from tmkd_lightning.feature_extraction.spec import Spec

__all__ = ["Ensemble", "Extractor", "MissingPartError", "Output", "Spec"]
