"""Networks as files that need neither this library nor Lightning."""

from tmkd_lightning.export.hub import UploadError, export_hub, push_to_hub
from tmkd_lightning.export.int8 import export_int8
from tmkd_lightning.export.predict import predict_folder
from tmkd_lightning.export.student import export_student

__all__ = ["UploadError", "export_hub", "export_int8", "export_student", "predict_folder", "push_to_hub"]
