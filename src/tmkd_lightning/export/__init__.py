"""Networks as files that need neither this library nor Lightning, and what a student gains over its teacher."""

from tmkd_lightning.export.page import RunPage, collect_page, write_page
from tmkd_lightning.export.page_in_wandb import log_page
from tmkd_lightning.export.predict import predict_folder
from tmkd_lightning.export.student import export_student

__all__ = ["RunPage", "collect_page", "export_student", "log_page", "predict_folder", "write_page"]
