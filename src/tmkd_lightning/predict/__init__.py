"""What a student says of images in a folder."""

from tmkd_lightning.predict.folder import predict_folder

__all__ = ["predict_folder"]
