"""Networks as files that need neither this library nor Lightning, and what a student gains over its teacher."""

from tmkd_lightning.export.hub import UploadError, export_hub, push_to_hub
from tmkd_lightning.export.int8 import export_int8
from tmkd_lightning.export.page import RunPage, collect_page, write_page
from tmkd_lightning.export.page_in_wandb import log_page
from tmkd_lightning.export.predict import predict_folder
from tmkd_lightning.export.student import export_student

__all__ = [
    "RunPage",
    "UploadError",
    "collect_page",
    "export_hub",
    "export_int8",
    "export_student",
    "log_page",
    "predict_folder",
    "push_to_hub",
    "write_page",
]
