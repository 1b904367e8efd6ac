"""LightningDataModules, one a dataset."""
