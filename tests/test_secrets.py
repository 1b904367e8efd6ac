"""What stands in environment variables is in no file that a run writes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import wandb
import yaml

from tmkd_lightning.cli import main as tmkd
from wandb_file import read_run

EXAMPLES = Path(__file__).parent.parent / "examples"
SECRETS = {"WANDB_API_KEY": "0123456789abcdef" * 2 + "cafe0123", "CLOUD_SECRET_TOKEN": "swordfish-7f3a9d1c"}


@pytest.mark.filterwarnings("ignore")
def test_no_file_of_a_run_holds_a_key(tmp_path, monkeypatch) -> None:
    """Config, run record, logs, checkpoints, caches, and all that Weights & Biases writes when it is offline."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    command = ["fit", "--config", str(EXAMPLES / "digits_tmkd.yaml"), "--model.teacher_checkpoint", "null"]
    loggers = [
        {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "runs", "name": "digits_tmkd"}},
        {"class_path": "WandbLogger", "init_args": {"project": "tests", "offline": True, "save_dir": "runs"}},
    ]
    options = {"max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 1, "logger": loggers}
    Path("runs").mkdir()  # where there is none, some versions of wandb write to the folder of temporary files
    Path("short.yaml").write_text(yaml.safe_dump({"trainer": {**options, "enable_progress_bar": False}}))
    monkeypatch.setattr(sys, "argv", ["tmkd", *command, "--config", "short.yaml"])
    wandb.teardown()  # its service of an earlier test knows the environment of that time
    tmkd()
    wandb.finish()
    wandb.teardown()
    (offline,) = tmp_path.rglob("run-*.wandb")
    config, _ = read_run(offline)
    assert "digits_tmkd.yaml" in config["run"]["command"]  # that is where a key would be
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    names = {path.name for path in files}
    assert {"best.ckpt", "last.ckpt", "resolved_config.yaml", "run_record.json", "metrics.csv"} <= names
    for name, value in SECRETS.items():
        assert [path for path, content in files.items() if value.encode() in content] == [], name
