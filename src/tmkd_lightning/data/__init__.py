"""Data: LightningDataModules that hand over uint8 images, integer labels, and names for the classes."""

from tmkd_lightning.data.base import ImageDataModule
from tmkd_lightning.data.benchmark import BenchmarkDataModule
from tmkd_lightning.data.cifar100 import CIFAR100DataModule
from tmkd_lightning.data.cub200 import CUB200DataModule
from tmkd_lightning.data.datasets import CUB200, RAFDB, StanfordDogs
from tmkd_lightning.data.digits import DigitsDataModule
from tmkd_lightning.data.dtd import DTDDataModule
from tmkd_lightning.data.errors import DataError
from tmkd_lightning.data.image_folder import ImageFolderDataModule
from tmkd_lightning.data.rafdb import RAFDBDataModule
from tmkd_lightning.data.split import stratified_split
from tmkd_lightning.data.stanford_dogs import StanfordDogsDataModule

__all__ = [
    "CUB200",
    "RAFDB",
    "BenchmarkDataModule",
    "CIFAR100DataModule",
    "CUB200DataModule",
    "DTDDataModule",
    "DataError",
    "DigitsDataModule",
    "ImageDataModule",
    "ImageFolderDataModule",
    "RAFDBDataModule",
    "StanfordDogs",
    "StanfordDogsDataModule",
    "stratified_split",
]
