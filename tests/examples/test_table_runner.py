"""The runner of grids: done cells are skipped, and a killed cell ends as an undisturbed one."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import yaml

from helpers.subprocess_run import wait_for
from helpers.tiny import TABLES

TINY = {"trainer": {"max_epochs": 3, "log_every_n_steps": 1, "enable_model_summary": False}}


def write(path: Path, **content: Any) -> Path:
    path.write_text(yaml.safe_dump({"threads": 1, "overrides": {"all": TINY}, **content}))
    return path


# With real runs


@pytest.mark.slow
def test_a_cell_killed_in_training_and_one_killed_in_testing_end_as_an_undisturbed_one(tables, tmp_path) -> None:
    pair = {"name": "digits", "config": "digits_tmkd", "set": {"model": {"init_args": {"distiller": None}}}}
    grid = write(tmp_path / "grid.yaml", pairs=[pair], methods=["student"], seeds=[0])
    undisturbed = tmp_path / "undisturbed"
    assert tables.run.main([str(grid), "--output", str(undisturbed)]) == 0

    root, folder = tmp_path / "killed", tmp_path / "killed/digits/student/seed0"
    for reached in (folder / "last.ckpt", folder / "test_best"):
        command = [sys.executable, str(TABLES / "run.py"), str(grid), "--output", str(root)]
        runner = subprocess.Popen(command, start_new_session=True)
        wait_for(reached.exists, runner)
        os.killpg(runner.pid, signal.SIGKILL)
        runner.wait()
        assert not (folder / "done.json").exists()
    assert tables.run.main([str(grid), "--output", str(root)]) == 0
    results = [json.loads((path / "digits/student/seed0/done.json").read_text()) for path in (root, undisturbed)]
    assert [results[0][which] for which in ("best", "last")] == [results[1][which] for which in ("best", "last")]
    assert len(list(folder.glob("version_*"))) == 2  # the third run had nothing left to train


# With a stand-in for the runs


@pytest.fixture
def ran(tables, monkeypatch) -> list[str]:
    """Replaces training: leaves the result of a cell, or an error if `ran.broken` names it; lists what ran, where."""

    class Ran(list):
        broken = ""

    ran = Ran()

    def call(command: list[str], stdout: Any, stderr: Any, env: dict[str, str]) -> int:
        folder = Path(command[-1])
        found = json.loads((folder / "cell.json").read_text())
        ran.append((found["id"], env.get("CUDA_VISIBLE_DEVICES")))
        if ran.broken and ran.broken in found["id"]:
            stdout.write("".join(f"line {number}\n" for number in range(99)).encode() + b"ValueError: no\n")
            return 1
        (folder / "done.json").write_text(json.dumps({which: {"test/top1": 0.5} for which in ("best", "last")}))
        return 0

    monkeypatch.setattr(tables.run.subprocess, "call", call)
    return ran


@pytest.fixture
def grid(tmp_path) -> Path:
    pairs = [{"name": name, "config": "digits_tmkd", "teacher": f"digits_{name}"} for name in ("teacher", "student")]
    return write(tmp_path / "grid.yaml", pairs=pairs, methods=["kd"], seeds=[0, 1])


@pytest.fixture
def command(grid, tmp_path) -> list[str]:
    return [str(grid), "--output", str(tmp_path / "runs")]


def test_teachers_come_first_and_what_is_done_is_skipped(tables, ran, command, capsys) -> None:
    assert tables.run.main([*command, "--cells", "teacher/*/seed1"]) == 0
    assert [name for name, _ in ran] == ["teachers/digits_teacher", "teacher/kd/seed1"]
    assert tables.run.main([*command, "--jobs", "3", "--devices", "0,1"]) == 0
    names, devices = zip(*ran[2:], strict=True)
    assert names[0] == "teachers/digits_student"
    assert sorted(names[1:]) == ["student/kd/seed0", "student/kd/seed1", "teacher/kd/seed0"]
    assert set(devices) <= {"0", "1"}
    assert "teacher/kd/seed1: was done before, test top-1 in %: best epoch 50.00" in capsys.readouterr().out


def test_a_failed_cell_prints_the_end_of_its_log_and_the_others_run(tables, ran, command, capsys) -> None:
    ran.broken = "student/kd/seed0"
    assert tables.run.main(command) == 1
    printed = capsys.readouterr().out
    for text in ("FAILED student/kd/seed0; ", "ends with\n    line 85\n", "ValueError: no"):
        assert text in printed
    assert printed.endswith("1 of 6 cells failed\n")
    ran.broken = ""
    assert tables.run.main(command) == 0
    assert len(ran) == 7


def test_students_of_a_failed_teacher_do_not_run(tables, ran, command, capsys) -> None:
    ran.broken = "digits_teacher"
    assert tables.run.main(command) == 1
    assert "FAILED teacher/kd/seed1: its teacher failed" in capsys.readouterr().out
    assert not [name for name, _ in ran if name.startswith("teacher/")]


def test_a_dry_run_lists_states_and_runs_nothing(tables, ran, command, tmp_path, capsys) -> None:
    tables.run.main([*command, "--cells", "teacher/*/seed1"])
    (tmp_path / "runs/teacher/kd/seed1/done.json").unlink()
    capsys.readouterr()
    assert tables.run.main([*command, "--dry_run"]) == 0
    teachers = ["teachers/digits_teacher done", "teachers/digits_student new"]
    cells = ["teacher/kd/seed0 new", "teacher/kd/seed1 unfinished", "student/kd/seed0 new", "student/kd/seed1 new"]
    assert capsys.readouterr().out.splitlines() == teachers + cells
    assert len(ran) == 2


def test_another_config_a_moved_cell_and_a_wrong_pattern_stop_before_anything_runs(
    tables, ran, command, grid, tmp_path
) -> None:
    tables.run.main(command)
    with pytest.raises(SystemExit, match="--cells nobody: no cell fits; ids are such as student/kd/seed1"):
        tables.run.main([*command, "--cells", "nobody"])
    (tmp_path / "runs/teacher/kd/seed1/done.json").unlink()
    (tmp_path / "runs").rename(tmp_path / "moved")
    with pytest.raises(SystemExit, match=r"seed1 is not finished and was begun in .*runs/.*: move it back"):
        tables.run.main([str(grid), "--output", str(tmp_path / "moved")])
    change = {"students": {"model": {"init_args": {"temperature": 2}}}}
    write(grid, **{**yaml.safe_load(grid.read_text()), "overrides": change})
    with pytest.raises(SystemExit, match="holds a run of another config"):
        tables.run.main([str(grid), "--output", str(tmp_path / "moved")])
    assert len(ran) == 6


def test_an_interrupted_grid_says_how_to_resume(tables, monkeypatch, command, capsys) -> None:
    monkeypatch.setattr(tables.run, "run", Mock(side_effect=KeyboardInterrupt))
    assert tables.run.main(command) == 130
    assert capsys.readouterr().out == "Interrupted. The same command resumes.\n"


def test_a_cell_logs_to_its_own_run_of_wandb(tables, ran, command, tmp_path) -> None:
    tables.run.main([*command, "--wandb", "project"])
    folders = sorted((tmp_path / "runs/teacher/kd").iterdir())
    trainers = [yaml.safe_load((folder / "config.yaml").read_text())["trainer"] for folder in folders]
    one, other = (trainer["logger"][1]["init_args"] for trainer in trainers)
    assert one["id"] != other["id"]
    assert one["name"] == "teacher/kd/seed0"
    names = [callback["class_path"].split(".")[-1] for callback in trainers[0]["callbacks"]]
    assert names == ["PromptEmbeddings", "ModelCheckpoint", "ModelCheckpoint", "StudentArtifact"]


# For several machines


def test_a_task_of_the_slurm_array_runs_the_cell_of_its_number(tables, grid, tmp_path) -> None:
    (tmp_path / "python").write_text(  # the runner's list from Python, and its other commands on the screen
        f'#!/bin/bash\nif [[ "$*" = *--dry_run ]]; then exec {sys.executable} "$@"; fi\necho "$@"\n'
    )
    (tmp_path / "python").chmod(0o755)
    task = ["bash", str(TABLES / "slurm.sh"), str(grid), "--wandb", "project"]
    for number, cell in enumerate(tables.grid.read_grid(grid).cells):
        environment = {**os.environ, "PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_ARRAY_TASK_ID": str(number)}
        done = subprocess.run(task, cwd=TABLES.parents[1], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout == f"examples/tables/run.py {grid} --wandb project --cells {cell.id}\n"


def test_the_sweep_has_a_run_for_each_student_of_the_digits(tables) -> None:
    sweep = yaml.safe_load((TABLES / "sweep.yaml").read_text())
    students = [cell.id for cell in tables.grid.read_grid(TABLES / "digits.yaml").cells if cell.teacher is not None]
    assert sweep["parameters"]["cells"]["values"] == students
    assert sweep["command"][-4:] == ["examples/tables/digits.yaml", "--wandb", "digits", "${args}"]
    assert (TABLES.parents[1] / sweep["program"]).is_file()
