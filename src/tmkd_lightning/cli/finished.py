"""A finished run as its checkpoint tells it; its folder is asked for the rest, and only for what fits that."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.seed import max_seed_value
from lightning.pytorch import LightningDataModule

from tmkd_lightning.callbacks import StepSeeds
from tmkd_lightning.callbacks.carried_curve import CURVE, METRICS
from tmkd_lightning.figures.curves import History, history_of, read_history, run_folder, run_name
from tmkd_lightning.figures.drawing import NothingToPlotError
from tmkd_lightning.modules.restored import build_data
from tmkd_lightning.utils.checkpoint_reading import read_checkpoint
from tmkd_lightning.utils.configs import RESOLVED_CONFIG, read_config
from tmkd_lightning.utils.messages import printable


class FinishedRun:
    """What is known of the run that saved a checkpoint.

    A folder may hold several runs, or tests of one, so what lies in it counts only if it fits: a metrics.csv that
    begins with the rows that the checkpoint carries; or where it carries none, that has a row of the checkpoint's step,
    in a folder whose config names no other seed.

    Args:
        checkpoint: one that can be read.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint, self.folder = checkpoint, run_folder(checkpoint)
        self._content = read_checkpoint(checkpoint)
        kept = (self._content.get("callbacks") or {}).get(StepSeeds().state_key, {}).get("seed")
        self._seed = kept if kept is not None and kept <= max_seed_value else None  # above it: drawn by chance

    @property
    def seed(self) -> int | None:
        """The seed of the run, or None where nothing says it, or several runs could be meant.

        Raises:
            ValueError: a config beside the logs is none.
        """
        if self._seed is not None:
            return self._seed
        seeds = {config.get("seed_everything") for config in self._configs()}
        return seeds.pop() if len(seeds) == 1 else None

    @property
    def source(self) -> str:
        """Says for captions where a figure comes from: run, checkpoint and seed."""
        step = self._content.get("global_step", "unknown")
        seed = "unknown" if self.seed is None else self.seed
        return f"run {run_name(self.folder)}, checkpoint {self.checkpoint.name} (step {step}), seed {seed}"

    def data(self) -> LightningDataModule:
        """Builds the datamodule that the run was trained on.

        Raises:
            ValueError: nothing says which that was, or it cannot be built.
        """
        config = self._content.get("datamodule_hyper_parameters") or {}
        if "_class_path" not in config:
            config = next((_flat(config["data"]) for config in self._configs() if "data" in config), {})
        if "_class_path" not in config:
            raise ValueError(
                f"neither {self.checkpoint} nor a {RESOLVED_CONFIG} of its run in {self.folder} or its version_<n> "
                "says what data to show: name them with data"
            )
        return build_data(config, self.checkpoint, "name another with data")

    def history(self, run: Path | None = None) -> History:
        """What the run logged: from the metrics.csv that goes on behind the checkpoint, else what that carries.

        Args:
            run: another folder to look in, or the file itself, which is taken as it is.

        Raises:
            NothingToPlotError: nothing was logged that belongs to the checkpoint.
            ValueError: a file that is none.
        """
        if run is not None and run.is_file():
            return read_history(run)
        place = self.folder if run is None else run
        below = "*" if self._content.get(CURVE) else "version_*"  # the carried rows tell it among any others
        path = next((path for path in _newest_first(place, below, METRICS) if self._is_ours(path)), None)
        if path is not None:
            return read_history(path)
        if run is None and self._content.get(CURVE):
            name = run_name(self.folder)
            print(printable(f"curves of run {name} end at its checkpoint: no {METRICS} in {place} goes on there"))
            return history_of(self._content[CURVE], self.checkpoint)
        raise NothingToPlotError(
            f"no {METRICS} in {place} or a folder in it belongs to {self.checkpoint}: train with Lightning's "
            "CSVLogger, or name the file with run"
        )

    def _is_ours(self, path: Path) -> bool:
        carried = self._content.get(CURVE)
        if carried is None:
            return self._fits(path.parent, _config(path.with_name(RESOLVED_CONFIG)))
        begin = _rows(carried.splitlines())
        return bool(begin) and _rows_of(path)[: len(begin)] == begin

    def _configs(self) -> list[dict[str, Any]]:
        """Configs of the command line beside logs of this run, the newest first."""
        found = [(path.parent, _config(path)) for path in _newest_first(self.folder, "version_*", RESOLVED_CONFIG)]
        return [config for folder, config in found if self._fits(folder, config)]

    def _fits(self, folder: Path, config: Mapping[str, Any]) -> bool:
        """Whether a log folder can be that of this run; one of a test alone cannot."""
        known = self._seed is not None and "seed_everything" in config
        if known and config["seed_everything"] != self._seed:
            return False
        if not (folder / METRICS).is_file():
            return known
        place = {"epoch": str(self._content.get("epoch")), "step": str(self._content.get("global_step", 0) - 1)}
        here = [row for row in _rows_of(folder / METRICS) if place.items() <= row.items()]
        return any(name not in place and not name.startswith("test/") for row in here for name in row)


def _newest_first(folder: Path, below: str, name: str) -> list[Path]:
    """Files of a name in a folder, and in those right below it."""
    found = [path for path in [folder / name, *folder.glob(f"{below}/{name}")] if path.is_file()]
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def _config(path: Path) -> dict[str, Any]:
    """The config that the command line left beside the logs; empty where there is none."""
    return read_config(path) if path.is_file() else {}


def _flat(data: Any) -> dict[str, Any]:
    """A part of a config as Lightning keeps it in checkpoints."""
    if not isinstance(data, Mapping) or "class_path" not in data:
        return {}
    return {**data.get("init_args", {}), **data.get("dict_kwargs", {}), "_class_path": data["class_path"]}


def _rows_of(path: Path) -> list[dict[str, str]]:
    return _rows(path.read_text(encoding="utf-8", errors="replace").splitlines())


def _rows(lines: list[str]) -> list[dict[str, str]]:
    """What stands in the cells of each row, without empty ones; nothing if the file is none."""
    try:
        return [{name: text for name, text in row.items() if name and text} for row in csv.DictReader(lines)]
    except csv.Error:
        return []
