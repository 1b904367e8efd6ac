"""A trained run, from its checkpoint and its log folder."""

from __future__ import annotations

from pathlib import Path

from lightning.fabric.utilities.seed import max_seed_value
from lightning.pytorch import LightningDataModule

from tmkd_lightning.callbacks import StepSeeds
from tmkd_lightning.figures.curves import History, read_history, run_folder, run_name
from tmkd_lightning.figures.drawing import NothingToPlotError
from tmkd_lightning.modules.loading import load_datamodule
from tmkd_lightning.utils.checkpoint_reading import read_checkpoint


class FinishedRun:
    """The run that saved a checkpoint: its name and seed, its datamodule, and its metrics."""

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint, self.folder = checkpoint, run_folder(checkpoint)
        content = read_checkpoint(checkpoint)
        self._data = content.get("datamodule_hyper_parameters") or {}
        self._step = content.get("global_step", "unknown")
        seed = (content.get("callbacks") or {}).get(StepSeeds().state_key, {}).get("seed")
        self.seed: int | None = seed if seed is not None and seed <= max_seed_value else None  # above it: no seed given

    @property
    def source(self) -> str:
        """Run, checkpoint, step and seed, for captions."""
        seed = "unknown" if self.seed is None else self.seed
        return f"run {run_name(self.folder)}, checkpoint {self.checkpoint.name} (step {self._step}), seed {seed}"

    def data(self) -> LightningDataModule:
        """Builds the datamodule of the run."""
        if "_class_path" not in self._data:
            raise ValueError(f"{self.checkpoint} does not name its data: name them with data")
        return load_datamodule(self._data, self.checkpoint, "name another with data")

    def history(self, run: Path | None = None) -> History:
        """Reads the metrics that the run logged to its folder, or to `run`."""
        place = self.folder if run is None else run
        if place.is_dir() and not [*place.glob("metrics.csv"), *place.glob("version_*/metrics.csv")]:
            raise NothingToPlotError(
                f"no metrics.csv in {place} or its version_<n>: train with Lightning's CSVLogger, or name it with run"
            )
        return read_history(place)
