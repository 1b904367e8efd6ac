"""The scripts for SLURM, run with a scheduler's variables: what they start is a command that parses."""

import os
import subprocess

import pytest

from helpers.doc_commands import check
from helpers.doc_pages import ROOT

CLUSTER = ROOT / "examples" / "cluster"
SLURM = {
    "SLURM_ARRAY_TASK_ID": "3",
    "SLURM_ARRAY_TASK_MAX": "8",
    "SLURM_NNODES": "2",
    "SLURM_NTASKS_PER_NODE": "4",
    "SLURM_CPUS_PER_TASK": "8",
}
CONFIGS = ["--config", "examples/digits_tmkd.yaml", "--trainer.max_epochs", "3"]
EXPECTED = {
    "fill_cache.sh": ["tmkd", "cache", "fill", *CONFIGS, "--shard", "3/8"],
    "train.sh": [
        *["tmkd", "fit", *CONFIGS, "--trainer.strategy", "ddp", "--trainer.num_nodes", "2"],
        *["--trainer.devices", "4", "--data.num_workers", "7"],
    ],
}


def test_every_script_is_here() -> None:
    assert {path.name for path in CLUSTER.iterdir()} == set(EXPECTED)


@pytest.mark.parametrize("script", EXPECTED)
def test_what_a_script_starts(script, tmp_path, monkeypatch) -> None:
    for name in ("srun", "tmkd"):
        program = tmp_path / name
        program.write_text(f'#!/bin/bash\n[ {name} = srun ] && exec "$@"\nprintf "%s\\n" tmkd "$@"\n')
        program.chmod(0o755)
    environment = {"PATH": f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin", **SLURM}
    command = ["bash", str(CLUSTER / script), *CONFIGS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    words = done.stdout.splitlines()
    assert words == EXPECTED[script]
    monkeypatch.chdir(ROOT)
    check(words)
    without = {name: value for name, value in environment.items() if not name.startswith("SLURM_")}
    assert subprocess.run(command, env=without, capture_output=True).returncode != 0  # and starts nothing


def test_options_for_the_scheduler_are_ones_that_it_knows() -> None:
    """In each script before the first command, where sbatch reads them."""
    known = {
        "gpus",
        "cpus-per-task",
        "requeue",
        "nodes",
        "ntasks-per-node",
        "gpus-per-node",
        "time",
        "signal",
        "open-mode",
    }
    for path in CLUSTER.iterdir():
        lines = path.read_text().splitlines()
        options = [line.removeprefix("#SBATCH --").split("=")[0] for line in lines if line.startswith("#SBATCH")]
        assert options
        assert set(options) <= known
        assert not any(line.startswith("#SBATCH") for line in lines[lines.index("set -eu") :])
