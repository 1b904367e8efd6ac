"""A grid that is cut off goes on where it was: what comes out is what an undisturbed run gives."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from helpers.subprocess_run import wait_for
from helpers.tiny import TABLES

TINY = {"trainer": {"max_epochs": 3, "log_every_n_steps": 1, "enable_model_summary": False}}


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """The runner takes two signals over."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def write(path: Path, **content: Any) -> Path:
    path.write_text(yaml.safe_dump({"threads": 1, "overrides": {"all": TINY}, **content}))
    return path


def everything(root: Path) -> dict[str, Any]:
    """What a grid has found: metrics and curves, without how long it took."""
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("done.json")):
        name = str(path.parent.relative_to(root))
        found[name] = json.loads(path.read_text())["metrics"], (path.parent / "curve.csv").read_text()
    return found


def begun(grid: Path, root: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, str(TABLES / "run.py"), str(grid), "--output", str(root)])


def kill(runner: subprocess.Popen[bytes]) -> None:
    """As when the machine goes down: the runner, and what it has started."""
    children = Path(f"/proc/{runner.pid}/task").glob("*/children")
    numbers = [int(number) for file in children for number in file.read_text().split()]
    runner.kill()
    runner.wait()
    for number in numbers:
        os.kill(number, signal.SIGKILL)


def rows(folder: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in folder.rglob("attempt_*/metrics.csv"))


# With real runs


@pytest.mark.slow
def test_a_cell_that_is_killed_while_it_trains_and_while_it_is_tested_ends_the_same(tables, tmp_path) -> None:
    pair = {"name": "digits", "config": "digits_tmkd", "set": {"model": {"init_args": {"distiller": None}}}}
    grid = write(tmp_path / "grid.yaml", pairs=[pair], methods=["student"], seeds=[0])
    assert tables.run.main([str(grid), "--output", str(tmp_path / "undisturbed")]) == 0

    root, folder = tmp_path / "killed", tmp_path / "killed/digits/student/seed0"
    runner = begun(grid, root)
    wait_for(lambda: (folder / "last.ckpt").exists() and rows(folder) >= 8, runner)  # header, 4 steps, validation, ...
    kill(runner)
    threading.Thread(target=_kill_at_test, args=(tables, folder), daemon=True).start()
    assert tables.run.main([str(grid), "--output", str(root)]) == 1  # a child that was killed is a cell that failed
    assert not (folder / "done.json").exists()
    assert tables.run.main([str(grid), "--output", str(root)]) == 0

    assert everything(root) == everything(tmp_path / "undisturbed")
    attempts = [json.loads(path.read_text()) for path in tables.curve.attempts(folder)]
    assert [attempt["from_step"] for attempt in attempts] == [0, 4]  # the third run had nothing left to train
    curve = tables.curve.read(folder / "curve.csv")
    assert [int(row["step"]) for row in curve if row["train/ce"]] == list(range(12))
    assert [int(row["epoch"]) for row in curve if row["val/top1"]] == [0, 1, 2]


def _kill_at_test(tables, folder: Path) -> None:
    wait_for(lambda: (folder / "test_best/metrics.csv").exists() or (folder / "test_best").exists())
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if str(tables.cell.MEASURE).encode() in command and str(folder).encode() in command:
            os.kill(int(path.parent.name), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_grid_that_is_killed_anywhere_gives_the_same_table(tables, tmp_path, seed) -> None:
    """Runner and children die at random moments, sometimes the runner alone."""
    pair = {"name": "digits", "config": "digits_tmkd", "teacher": "digits_teacher"}
    pair["set"] = {"model": {"init_args": {"distiller": None}}}
    grid = write(tmp_path / "grid.yaml", pairs=[pair], methods=["kd", "tekap", "rkd_tmkd"], seeds=[0, 1])
    assert tables.run.main([str(grid), "--output", str(tmp_path / "undisturbed"), "--jobs", "2"]) == 0
    draw, root = random.Random(seed), tmp_path / "killed"
    for _ in range(100):
        runner = begun(grid, root)
        try:
            runner.wait(draw.uniform(8, 25))
            break
        except subprocess.TimeoutExpired:
            if draw.random() < 0.3:  # what it has started goes on, and the next runner waits for it
                runner.kill()
                runner.wait()
            else:
                kill(runner)
    assert runner.returncode == 0
    assert everything(root) == everything(tmp_path / "undisturbed")
    assert _table(tables, grid, root) == _table(tables, grid, tmp_path / "undisturbed")


def _table(tables, path: Path, root: Path) -> str:
    grid = tables.grid.read_grid(path)
    return tables.tabulator.as_markdown(grid, tables.results.read_results(grid, root), {})


# With a stand-in for the runs


@pytest.fixture
def pretended(tables, monkeypatch):
    """Instead of training, leaves the files that training leaves; notes what was run."""
    ran: list[str] = []

    def run(self: Any, command: list[str], log: Path, environment: dict[str, str], lock: int) -> int:
        settings = Path(command[-1]) if command[1].endswith("measure.py") else Path(command[5])
        folder = settings if settings.is_dir() else settings.parent
        ran.append(f"{folder.parent.parent.name}/{folder.parent.name}/{folder.name} {log.stem}")
        if any(name in str(folder) for name in run.broken):  # type: ignore[attr-defined]
            log.write_text("".join(f"line {number}\n" for number in range(99)) + "ValueError: as it was told\n")
            return 1
        if settings.is_dir():
            for name in ("best", "last"):
                tables.curve.write(folder / f"test_{name}/metrics.csv", [{"epoch": "0", "test/top1": "0.5"}])
            return 0
        for name in ("best", "last"):
            torch.save({"epoch": 0, "global_step": 1, "tmkd_num_classes": 10}, folder / f"{name}.ckpt")
        tables.curve.write(folder / settings.stem / "metrics.csv", [{"epoch": "0", "step": "0", "val/top1": "0.4"}])
        tables.cell.write_json(folder / settings.stem / "run_record.json", {"environment": environment.get("DEVICE")})
        return 0

    run.broken = []  # type: ignore[attr-defined]
    monkeypatch.setattr(tables.processes.Processes, "run", run)
    return SimpleNamespace(ran=ran, broken=run.broken)


@pytest.fixture
def grid(tmp_path) -> Path:
    pairs = [{"name": name, "config": "digits_tmkd", "teacher": f"digits_{name}"} for name in ("teacher", "student")]
    return write(tmp_path / "grid.yaml", pairs=pairs, methods=["kd"], seeds=[0, 1])


def test_teachers_come_first_and_what_is_done_is_skipped(tables, pretended, grid, tmp_path, capsys) -> None:
    arguments = [str(grid), "--output", str(tmp_path / "runs")]
    assert tables.run.main([*arguments, "--cells", "teacher/*/seed1"]) == 0
    one = ["runs/teachers/digits_teacher attempt_0", "runs/teachers/digits_teacher test"]
    other = ["teacher/kd/seed1 attempt_0", "teacher/kd/seed1 test"]
    assert pretended.ran == one + other
    assert tables.run.main(arguments) == 0
    assert len(pretended.ran) == 2 * 6  # two teachers, four students, each once
    assert "teacher/kd/seed1: was done before" in capsys.readouterr().out


def test_a_failing_cell_shows_the_end_of_its_log_and_others_go_on(tables, pretended, grid, tmp_path, capsys) -> None:
    pretended.broken.append("student/kd/seed0")
    assert tables.run.main([str(grid), "--output", str(tmp_path / "runs")]) == 1
    printed = capsys.readouterr().out
    assert "FAILED student/kd/seed0: training failed\n    line 85" in printed
    assert "ValueError: as it was told" in printed
    assert "1 of 6 cells failed: student/kd/seed0" in printed
    assert len(list((tmp_path / "runs").rglob("done.json"))) == 5
    pretended.broken.clear()
    assert tables.run.main([str(grid), "--output", str(tmp_path / "runs")]) == 0


def test_students_of_a_teacher_that_failed_are_not_run(tables, pretended, grid, tmp_path, capsys) -> None:
    pretended.broken.append("digits_teacher")
    assert tables.run.main([str(grid), "--output", str(tmp_path / "runs")]) == 1
    assert "FAILED teacher/kd/seed1: its teacher failed" in capsys.readouterr().out
    assert not [name for name in pretended.ran if name.startswith("teacher/")]
    assert len(list((tmp_path / "runs").rglob("done.json"))) == 3


def test_a_dry_run_lists_states_and_runs_nothing(tables, pretended, grid, tmp_path, capsys) -> None:
    arguments = [str(grid), "--output", str(tmp_path / "runs")]
    tables.run.main([*arguments, "--cells", "teacher/*/seed1"])
    (tmp_path / "runs/teacher/kd/seed1/done.json").unlink()
    capsys.readouterr()
    count = len(pretended.ran)
    assert tables.run.main([*arguments, "--dry_run"]) == 0
    states = dict(line.split()[1:] for line in capsys.readouterr().out.splitlines())
    assert states == {
        "teachers/digits_teacher": "done",
        "teachers/digits_student": "new",
        "teacher/kd/seed0": "new",
        "teacher/kd/seed1": "unfinished",
        "student/kd/seed0": "new",
        "student/kd/seed1": "new",
    }
    assert len(pretended.ran) == count


def test_another_config_under_a_known_name_stops_before_anything_runs(tables, pretended, grid, tmp_path) -> None:
    arguments = [str(grid), "--output", str(tmp_path / "runs")]
    tables.run.main([*arguments, "--cells", "student/*/seed0"])
    count = len(pretended.ran)
    change = {"students": {"model": {"init_args": {"temperature": 2}}}}
    write(grid, **{**yaml.safe_load(grid.read_text()), "overrides": change})
    with pytest.raises(SystemExit, match="holds a run of another config"):
        tables.run.main(arguments)
    assert len(pretended.ran) == count


def test_an_unfinished_cell_does_not_move(tables, pretended, grid, tmp_path) -> None:
    tables.run.main([str(grid), "--output", str(tmp_path / "runs")])
    (tmp_path / "runs/teacher/kd/seed1/done.json").unlink()
    (tmp_path / "runs").rename(tmp_path / "moved")
    with pytest.raises(SystemExit, match=r"seed1 is not finished and was begun in .*runs/.*: move it back"):
        tables.run.main([str(grid), "--output", str(tmp_path / "moved")])


def test_a_pattern_that_fits_nothing_is_refused(tables, grid, tmp_path) -> None:
    with pytest.raises(SystemExit, match="--cells nobody: no cell fits; ids are such as student/kd/seed1"):
        tables.run.main([str(grid), "--output", str(tmp_path), "--cells", "nobody"])


def test_a_cell_logs_to_its_own_run_of_wandb(tables, pretended, grid, tmp_path) -> None:
    options = ["--wandb", "project", "--wandb_offline"]
    tables.run.main([str(grid), "--output", str(tmp_path / "runs"), *options])
    configs = {
        path.parent.name: yaml.safe_load(path.read_text())["trainer"]
        for path in (tmp_path / "runs/teacher/kd").rglob("attempt_0.yaml")
    }
    loggers = {seed: trainer["logger"][1] for seed, trainer in configs.items()}
    assert loggers["seed0"]["init_args"]["id"] != loggers["seed1"]["init_args"]["id"]
    assert loggers["seed0"]["init_args"]["offline"] is True
    names = [callback["class_path"].split(".")[-1] for callback in configs["seed0"]["callbacks"]]
    assert names == ["PromptEmbeddings", "ModelCheckpoint", "ModelCheckpoint", "StudentArtifact"]


def test_a_damaged_checkpoint_is_passed_over(tables, tmp_path, capsys) -> None:
    assert tables.cell.newest(tmp_path) == (None, 0)
    torch.save({"global_step": 8}, tmp_path / "best.ckpt")
    torch.save({"global_step": 12}, tmp_path / "last.ckpt")
    assert tables.cell.newest(tmp_path) == (tmp_path / "last.ckpt", 12)
    whole = (tmp_path / "last.ckpt").read_bytes()
    (tmp_path / "last.ckpt").write_bytes(whole[: len(whole) // 2])
    assert tables.cell.newest(tmp_path) == (tmp_path / "best.ckpt", 8)
    assert "last.ckpt is damaged and passed over" in capsys.readouterr().out


# Processes


def test_two_jobs_share_the_devices_in_turn(tables) -> None:
    processes = tables.processes.Processes(3, ["0", "1"], threads=2)
    with processes.slot() as one, processes.slot() as two, processes.slot() as three:
        assert [slot["CUDA_VISIBLE_DEVICES"] for slot in (one, two, three)] == ["0", "1", "0"]
        assert one["OMP_NUM_THREADS"] == "2"


def test_being_stopped_ends_the_command(tables, tmp_path) -> None:
    processes = tables.processes.Processes(1, [], threads=None)
    threading.Timer(0.3, processes.stopped.set).start()
    begin = time.monotonic()
    with processes.locked(tmp_path) as lock, pytest.raises(tables.processes.StoppedError):
        processes.run(["sh", "-c", "echo $$; exec sleep 60"], tmp_path / "log", dict(os.environ), lock)
    assert time.monotonic() - begin < 10
    number = int((tmp_path / "log").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


def test_an_output_below_a_file_is_told_once(tables, tmp_path, capsys) -> None:
    grid = write(tmp_path / "grid.yaml", pairs=[{"name": "a", "config": "digits_kd"}], methods=["kd"], seeds=[0, 1])
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SystemExit, match=rf"cannot be written \({tmp_path}/file is a file, not a folder\): choose"):
        tables.run.main([str(grid), "--output", str(tmp_path / "file/x")])
    assert capsys.readouterr().out == ""


def test_a_folder_is_locked_as_long_as_a_command_left_behind_works_in_it(tables, tmp_path) -> None:
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; from processes import Processes\n"
        "processes = Processes(1, [], None)\n"
        "with processes.locked(Path('.')) as lock:\n"
        "    processes.run(['sleep', '60'], Path('log'), dict(os.environ), lock)\n"
    )
    runner = subprocess.Popen([sys.executable, "-c", code, str(TABLES)], cwd=tmp_path)
    wait_for(lambda: (tmp_path / "log").exists() and _children(runner), runner)
    (child,) = _children(runner)
    runner.kill()
    runner.wait()
    assert tables.processes.is_locked(tmp_path)
    os.kill(child, signal.SIGKILL)
    wait_for(lambda: not tables.processes.is_locked(tmp_path))


def _children(process: subprocess.Popen[bytes]) -> list[int]:
    files = Path(f"/proc/{process.pid}/task").glob("*/children")
    return [int(number) for file in files for number in file.read_text().split()]


def test_an_interrupted_grid_says_so_and_goes_on_later(tables, tmp_path, monkeypatch, grid, capsys) -> None:
    def run(self: Any, *arguments: Any, **more: Any) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        self.stopped.wait(10)
        raise tables.processes.StoppedError

    monkeypatch.setattr(tables.processes.Processes, "run", run)
    assert tables.run.main([str(grid), "--output", str(tmp_path / "runs")]) == 130
    assert "Interrupted. The same command goes on from here." in capsys.readouterr().out
    shutil.rmtree(tmp_path / "runs")
