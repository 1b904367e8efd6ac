"""What a run was made with, in its log folder and in its loggers."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.loggers import CSVLogger

from tmkd_lightning import ClassifierModule
from tmkd_lightning.callbacks import RunRecord
from tmkd_lightning.callbacks.run_record import commit

IDENTITY = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), *IDENTITY, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def repository(tmp_path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "tracked").write_text("one")
    git(folder, "add", "tracked")
    git(folder, "commit", "-qm", "one")
    git(folder, "tag", "v1")  # a name must not take the place of the hash
    return folder


def test_a_commit_is_its_hash_and_dirty_once_a_file_was_changed(repository) -> None:
    head = git(repository, "rev-parse", "HEAD")
    assert commit(repository) == head
    (repository / "untracked").write_text("does not count")
    assert commit(repository) == head
    (repository / "tracked").write_text("two")
    assert commit(repository) == f"{head}-dirty"


def test_what_git_does_not_track_has_no_commit(repository, tmp_path, monkeypatch) -> None:
    environment = repository / ".venv"
    environment.mkdir()
    (environment / "module.py").write_text("")
    assert commit(environment, tracked="module.py") is None
    assert commit(tmp_path) is None  # no repository at all
    monkeypatch.setenv("PATH", "")
    assert commit(repository) is None  # no git at all


def test_it_is_written_beside_the_logs_and_to_the_loggers(net, loader, fit, tmp_path, repository, monkeypatch) -> None:
    monkeypatch.chdir(repository)
    monkeypatch.setenv("WANDB_API_KEY", "a secret of forty letters")
    logger = CSVLogger(tmp_path, name="run", version=0)
    module, record = ClassifierModule(net()), RunRecord("tmkd fit --config mine.yaml")
    trainer = fit(module, val=loader(), max_epochs=1, logger=logger, callbacks=[record])
    record.command = "measuring, which leaves the record of the training alone"
    trainer.test(module, loader(), verbose=False)
    text = (tmp_path / "run/version_0/run_record.json").read_text()
    written = json.loads(text)
    assert written == yaml.safe_load((tmp_path / "run/version_0/hparams.yaml").read_text())["run"]
    assert written["command"] == "tmkd fit --config mine.yaml"
    assert written["git"]["working_folder"] == git(repository, "rev-parse", "HEAD")
    assert written["versions"]["torch"] == torch.__version__
    assert written["hardware"]["accelerator"] == "CPUAccelerator"
    assert written["hardware"]["threads"] == 1
    assert "secret" not in text


def test_a_trial_of_one_batch_leaves_nothing(net, loader, fit, tmp_path) -> None:
    fit(ClassifierModule(net()), val=loader(), fast_dev_run=True, logger=False, callbacks=[RunRecord()])
    assert not list(tmp_path.rglob("run_record.json"))
