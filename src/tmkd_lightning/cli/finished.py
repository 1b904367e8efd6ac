"""What the checkpoint of a finished run tells about it, and the curve in its log folder."""

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
    """The run that saved a checkpoint."""

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
        """Builds the datamodule of the run; raises ValueError if the checkpoint does not hold it, or it cannot be."""
        if "_class_path" not in self._data:
            raise ValueError(f"{self.checkpoint} does not say what data to show: name them with data")
        return load_datamodule(self._data, self.checkpoint, "name another with data")

    def history(self, run: Path | None = None) -> History:
        """Reads what the run logged to its folder, or to `run`; raises NothingToPlotError if there is nothing."""
        place = self.folder if run is None else run
        if place.is_dir() and not [*place.glob("metrics.csv"), *place.glob("version_*/metrics.csv")]:
            raise NothingToPlotError(
                f"there is no metrics.csv in {place} or a version_<n> in it: train with Lightning's CSVLogger, or name "
                "the folder or file with run"
            )
        return read_history(place)
