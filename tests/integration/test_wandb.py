"""What Weights & Biases and TensorBoard are told, read from what they leave on the disk."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import WandbLogger

from helpers.wandb_file import read_artifacts, read_run, run_id
from tmkd_lightning import ClassifierModule
from tmkd_lightning.callbacks import StudentArtifact
from tmkd_lightning.cli.main import main as tmkd

EXAMPLES = Path(__file__).parents[2] / "examples"
SHORT = ["--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "2", "--trainer.log_every_n_steps", "1"]
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]


@pytest.fixture
def tmkd_fit(tmp_path, monkeypatch):
    """Runs ``tmkd fit`` in a process of its own, as wandb ends a run with its process."""
    monkeypatch.chdir(tmp_path)

    # wandb leaves its service's address to child processes: each run shall have a service of its own
    ours = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}

    def fit(overlay: dict, *options: str) -> None:
        Path("overlay.yaml").write_text(yaml.safe_dump(overlay))
        configs = ["--config", str(EXAMPLES / "digits_student.yaml"), "--config", "overlay.yaml"]
        run = subprocess.run(
            [sys.executable, "-m", "tmkd_lightning", "fit", *configs, *SHORT, *QUIET, *options],
            env={**ours, "OMP_NUM_THREADS": "1", "WANDB_DATA_DIR": "staged", "WANDB_CACHE_DIR": "cache"},
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert run.returncode == 0, run.stderr

    return fit


@pytest.mark.slow
def test_a_resumed_run_goes_on_under_its_id_with_record_and_artifact(tmkd_fit, tmp_path) -> None:
    arguments = {"project": "tests", "id": "digits0", "save_dir": ".", "offline": True}
    logger = {"class_path": "lightning.pytorch.loggers.WandbLogger", "init_args": arguments}
    artifact = {"class_path": "tmkd_lightning.callbacks.StudentArtifact"}
    overlay = {"trainer": {"logger": [logger], "callbacks+": [artifact]}}
    tmkd_fit(overlay, "--trainer.max_epochs", "1")
    tmkd_fit(overlay, "--trainer.max_epochs", "2", "--ckpt_path", "runs/digits_student/last.ckpt")

    first, second = sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime)
    assert run_id(first) == run_id(second) == "digits0"
    config, history = read_run(second)
    assert config["run"]["versions"]["torch"] == torch.__version__
    assert set(config["run"]["git"]) == {"working_folder", "library"}
    assert config["run"]["command"].startswith("tmkd fit --config")
    assert config["trainer"]["max_epochs"] == 2
    steps = [row["trainer/global_step"] for row in history if "train/loss" in row]
    assert steps == [2, 3]  # it went on, and did not begin again

    (handed,) = read_artifacts(first)
    assert (handed.name, handed.type, set(handed.aliases)) == ("student-digits0", "model", {"best", "latest"})
    assert json.loads(handed.metadata)["val/top1"] > 0
    (entry,) = handed.manifest.contents
    assert entry.path == "student.ckpt"


def test_an_artifact_needs_a_run_to_belong_to_and_a_checkpoint(net, tmp_path) -> None:
    wandb = WandbLogger(offline=True, save_dir=str(tmp_path))
    for options in ({"logger": False}, {"logger": wandb, "enable_checkpointing": False}):
        trainer = Trainer(max_epochs=1, accelerator="cpu", **options)
        with pytest.raises(ValueError, match="StudentArtifact needs a WandbLogger and a ModelCheckpoint"):
            StudentArtifact().setup(trainer, ClassifierModule(net()), "fit")


def test_csv_and_tensorboard_at_once(tmp_path, monkeypatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.chdir(tmp_path)
    loggers = [
        {"class_path": f"lightning.pytorch.loggers.{name}", "init_args": {"save_dir": "logs", "name": name}}
        for name in ("CSVLogger", "TensorBoardLogger")
    ]
    Path("overlay.yaml").write_text(yaml.safe_dump({"trainer": {"logger": loggers}}))
    configs = ["--config", str(EXAMPLES / "digits_student.yaml"), "--config", "overlay.yaml"]
    tmkd(["fit", *configs, *SHORT, *QUIET, "--trainer.max_epochs", "1"])
    events = EventAccumulator("logs/TensorBoardLogger/version_0")
    events.Reload()
    assert {"train/ce", "train/loss", "val/top1"} <= set(events.Tags()["scalars"])
    assert "val/top1" in Path("logs/CSVLogger/version_0/metrics.csv").read_text()
    for name in ("CSVLogger", "TensorBoardLogger"):
        hparams = Path(f"logs/{name}/version_0/hparams.yaml").read_text()
        assert "working_folder" in hparams
        assert "train_samples" in hparams
