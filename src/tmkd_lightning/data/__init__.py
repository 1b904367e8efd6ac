"""Data: LightningDataModules that hand over uint8 images, integer labels, and names for the classes."""

from tmkd_lightning.data.base import ImageDataModule
from tmkd_lightning.data.digits import DigitsDataModule
from tmkd_lightning.data.errors import DataError
from tmkd_lightning.data.image_folder import ImageFolderDataModule

__all__ = ["DataError", "DigitsDataModule", "ImageDataModule", "ImageFolderDataModule"]
