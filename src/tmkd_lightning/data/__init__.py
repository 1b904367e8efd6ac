"""Datasets, and LightningDataModules that load uint8 images, integer labels and class names."""

from tmkd_lightning.data.datamodules.base import ImageDataModule
from tmkd_lightning.data.datamodules.benchmark import BenchmarkDataModule
from tmkd_lightning.data.datamodules.cifar100 import CIFAR100DataModule
from tmkd_lightning.data.datamodules.digits import DigitsDataModule
from tmkd_lightning.data.datamodules.dtd import DTDDataModule
from tmkd_lightning.data.datamodules.image_folder import ImageFolderDataModule
from tmkd_lightning.data.datamodules.listed import CUB200DataModule, RAFDBDataModule, StanfordDogsDataModule
from tmkd_lightning.data.datamodules.stream import StreamDataModule
from tmkd_lightning.data.datasets import CUB200, RAFDB, StanfordDogs
from tmkd_lightning.data.errors import DataError
from tmkd_lightning.data.fingerprint import training_fingerprint
from tmkd_lightning.data.mixing import KorniaMix
from tmkd_lightning.data.sampling import EpochSampler, SeededDataset, collate
from tmkd_lightning.data.splits import stratified_split

__all__ = [
    "CUB200",
    "RAFDB",
    "BenchmarkDataModule",
    "CIFAR100DataModule",
    "CUB200DataModule",
    "DTDDataModule",
    "DataError",
    "DigitsDataModule",
    "EpochSampler",
    "ImageDataModule",
    "ImageFolderDataModule",
    "KorniaMix",
    "RAFDBDataModule",
    "SeededDataset",
    "StanfordDogs",
    "StanfordDogsDataModule",
    "StreamDataModule",
    "collate",
    "stratified_split",
    "training_fingerprint",
]
