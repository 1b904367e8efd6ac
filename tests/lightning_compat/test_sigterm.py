"""A process that is told to end ends, with status 143 and one line, whatever it is at."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from helpers.subprocess_run import wait_for
from tmkd_lightning import ClassifierModule
from tmkd_lightning.cli.main import main

SOURCE = Path(__file__).parents[2] / "src"


class TellAt(Callback):
    """Sends SIGTERM to the own process in the second batch, or epoch."""

    def __init__(self, hook: str, batch: int = 1) -> None:
        setattr(self, hook, self.tell)
        self.batch, self.told = batch, 0

    def tell(self, trainer, module, *rest) -> None:
        batches = [part for part in rest if isinstance(part, int)]
        if not batches or batches[0] == self.batch:
            self.told += 1
            os.kill(os.getpid(), signal.SIGTERM)


def test_training_ends_after_the_batch_and_names_the_last_checkpoint(net, fit, tmp_path, capsys) -> None:
    module, saving = ClassifierModule(net()), ModelCheckpoint(tmp_path, filename="last", every_n_train_steps=1)
    tell = TellAt("on_train_batch_start", batch=2)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SIGTERMException) as ended:
        fit(module, callbacks=[tell, saving], enable_checkpointing=True)
    assert ended.value.code == 143
    assert module.global_step == 3
    assert capsys.readouterr().err.count(f"received SIGTERM and ends: its last checkpoint is {tmp_path}/last") == 1
    assert torch.load(saving.best_model_path, weights_only=True)["global_step"] == 3
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_run_without_a_checkpoint_says_so(net, fit, capsys) -> None:
    with pytest.raises(SIGTERMException):
        fit(ClassifierModule(net()), callbacks=[TellAt("on_train_batch_start")])
    assert "received SIGTERM and ends: this run has not written a checkpoint yet\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("verb", "hook"),
    [("validate", "on_validation_batch_start"), ("test", "on_test_batch_start"), ("predict", "on_predict_batch_start")],
)
def test_other_loops_end_too(net, fit, loader, capsys, verb, hook) -> None:
    tell, module = TellAt(hook), ClassifierModule(net())
    trainer = fit(module, max_epochs=1)
    trainer.callbacks.insert(0, tell)
    with pytest.raises(SIGTERMException) as ended:
        getattr(trainer, verb)(module, loader())
    assert (ended.value.code, tell.told) == (143, 1)
    assert "received SIGTERM and ends\n" in capsys.readouterr().err


CONFIG = {
    "trainer": {
        "max_epochs": 1000,
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "callbacks": [
            {
                "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                "init_args": {"dirpath": "runs", "filename": "last", "enable_version_counter": False},
            }
        ],
    },
    "model": {
        "class_path": "tmkd_lightning.ClassifierModule",
        "init_args": {
            "network": {
                "class_path": "tmkd_lightning.models.WideResNet",
                "init_args": {"depth": 10, "widen_factor": 1, "num_classes": 10},
            }
        },
    },
    "data": {
        "class_path": "tmkd_lightning.data.DigitsDataModule",
        "init_args": {"image_size": 16, "train_samples": 20, "num_workers": 0},
    },
}


@pytest.fixture
def launch(tmp_path):
    """Starts ``tmkd fit`` and gives the process; its words are in the file `log`."""
    started: list[subprocess.Popen[bytes]] = []

    def run(config: dict) -> subprocess.Popen[bytes]:
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
        with (tmp_path / "log").open("w") as log:
            command = [sys.executable, "-m", "tmkd_lightning", "fit", "--config", "run.yaml"]
            env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SOURCE)}
            started.append(subprocess.Popen(command, cwd=tmp_path, env=env, stdout=log, stderr=log))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize("strategy", ["auto", pytest.param("ddp_fork", marks=pytest.mark.slow)])
def test_the_command_line_ends_with_the_status_of_a_terminated_process(launch, tmp_path, strategy) -> None:
    """Also where it trains in a process that it begins."""
    process = launch({**CONFIG, "trainer": {**CONFIG["trainer"], "strategy": strategy, "devices": 1}})
    wait_for((tmp_path / "runs" / "last.ckpt").is_file, process)
    process.terminate()
    assert process.wait(60) == 143
    log = (tmp_path / "log").read_text()
    assert log.count("received SIGTERM") == 1
    assert f"received SIGTERM and ends: its last checkpoint is {tmp_path}/runs/last.ckpt" in log
    assert "Traceback" not in log


SLOW = """
import time
from pathlib import Path
from tmkd_lightning.data import DigitsDataModule

class Slow(DigitsDataModule):
    def prepare_data(self):
        Path("preparing").touch()
        time.sleep(60)
"""


@pytest.mark.slow
def test_it_ends_while_it_prepares_data(launch, tmp_path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    process = launch({**CONFIG, "data": {"class_path": "slow.Slow", "init_args": {"image_size": 16}}})
    wait_for((tmp_path / "preparing").is_file, process)
    process.terminate()
    assert process.wait(30) == 143
    log = (tmp_path / "log").read_text()
    assert log.count("received SIGTERM and ends: this run has not written a checkpoint yet") == 1


@pytest.mark.filterwarnings("ignore:torch.distributed.nn.functional.all_gather is deprecated")
def test_a_run_in_another_process_closes_with_its_own_numbers(tmp_path, monkeypatch, capfd) -> None:
    """ddp_fork trains in a process that it begins, and the first one knows of nothing."""
    monkeypatch.chdir(tmp_path)
    trainer = {**CONFIG["trainer"], "strategy": "ddp_fork", "devices": 1, "max_epochs": 2}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**CONFIG, "trainer": trainer}))
    before = signal.getsignal(signal.SIGTERM)
    main(["fit", "--config", "run.yaml"])
    told = capfd.readouterr().out
    assert "2 epochs, 2 steps" in told
    assert "0 epochs" not in told
    assert "  last epoch  val/top1 " in told
    assert signal.getsignal(signal.SIGTERM) == before
