"""Networks as files that need neither this library nor Lightning."""

from tmkd_lightning.export.predict import predict_folder
from tmkd_lightning.export.student import export_student

__all__ = ["export_student", "predict_folder"]
