"""Two processes with half the batch each are one process with all of it."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from helpers.subprocess_run import run_script, wait_for
from helpers.tiny import CLASSES
from integration import ddp_equals_one as script

TOLERANCE = 1e-4  # of how far a parameter has moved in six steps; 3e-5 was seen, as float32 sums in another order


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes have written what they found: one launch for all tests."""
    folder = tmp_path_factory.mktemp("ddp")
    run_script(Path(script.__file__), folder)
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("name", script.SETTINGS)
def test_two_processes_equal_one(ranks, tmp_path, name) -> None:
    """Student, projector, text heads and WeightNet; noise and augmentation are off, and nothing has a BatchNorm."""
    one = script.train(1, tmp_path, name)
    assert one.keys() == ranks[0][name].keys()
    assert any("weight_net" in key for key in one) == name.startswith("tmkd")
    off = apart(one, ranks[0][name], name)
    assert max(off.values()) < TOLERANCE, off


@pytest.mark.parametrize("name", script.RELATIONAL)
def test_without_gather_two_processes_are_not_one(ranks, tmp_path, name) -> None:
    """On one process, gathering changes nothing, to the last bit."""
    one, gathered = script.train(1, tmp_path, f"{name}, local"), script.train(1, tmp_path, name)
    assert all(value.equal(gathered[key]) for key, value in one.items())
    assert max(apart(one, ranks[0][f"{name}, local"], name).values()) > 1000 * TOLERANCE


def apart(one: dict[str, Any], other: dict[str, Any], name: str) -> dict[str, float]:
    """How far two runs end from each other, by parameter, in units of how far the first has moved it."""
    fresh = dict(script.build(**script.SETTINGS[name]).named_parameters())
    moved = {key: (value - fresh[key]).abs().max() for key, value in one.items()}
    assert min(moved.values()) > 1e-5
    return {key: ((other[key] - value).abs().max() / moved[key]).item() for key, value in one.items()}


def test_gathered_batches_and_their_gradients(ranks) -> None:
    """Weights of 1 to 4 are the gradient of the whole batch; the mean of two processes has it in each one's rows."""
    for rank, found in enumerate(each["gathered"] for each in ranks):
        for dtype in (torch.bfloat16, torch.float16, torch.float64):
            whole, other, gradient = found[str(dtype)]
            assert (whole.dtype, whole.flatten().tolist()) == (dtype, [1, 2, 11, 12])
            assert other.tolist() == [[5, 6], [15, 16]]
            assert gradient.flatten().tolist() == [[2, 4], [6, 8]][rank]


def test_batches_that_differ_between_processes_are_refused_by_both(ranks) -> None:
    """Also beside a backend of the devices, where the hosts need a group of their own."""
    for found in (each["gathered"] for each in ranks):
        assert "(they hold [2, 2] images): give each process batches of one size" in found["nccl"]
        assert found["gloo"].startswith("the batches of all processes are gathered, but differ in shape")


def test_both_processes_have_one_student(ranks, folder) -> None:
    """Both start without text embeddings: each makes them, and one whole file is what they leave."""
    for name in (*script.SETTINGS, "uneven"):
        assert all(value.equal(ranks[1][name][key]) for key, value in ranks[0][name].items()), name
    assert [path.suffix for path in (folder / "prompts").iterdir()] == [".npz"]


def test_banks_of_crd_are_alike_without_being_sent(ranks) -> None:
    """Also after a resume, which is exact."""
    ends = [each["banks"] for each in ranks]
    assert "distiller.distillers.0.student_embedding.weight" in ends[0]["whole"]["sent"]
    assert not any("bank" in name or "classes" in name for name in ends[0]["whole"].pop("sent"))
    assert sorted(ends[0]["whole"]["distiller.distillers.0.classes"].unique().tolist()) == list(range(len(CLASSES)))
    for name, value in ends[0]["whole"].items():
        assert value.equal(ends[1]["whole"][name]), name
        for end in ends:
            assert value.equal(end["resumed"][name]), name
        assert "bank" not in name or not value.equal(ends[0]["first"][name]), name


def test_no_image_is_measured_twice(ranks) -> None:
    """Nine images in two processes; a sampler that pads would count the first one twice."""
    one = script.measure(1)
    assert 0 < one["val/top1"] < 1
    for name, value in one.items():
        expected = pytest.approx(value, abs=1e-6) if name == "val/loss" else value
        assert ranks[0]["metrics"][name] == ranks[1]["metrics"][name] == expected, name


def test_a_loss_of_one_process_stops_both(ranks, folder) -> None:
    for rank in ranks:
        assert "loss term 'kd' was not finite at step 1 (batch 1 of epoch 0 in process 1)" in rank["poisoned"]
    saved = torch.load(folder / "poisoned.ckpt", weights_only=True)
    assert saved["global_step"] == 1
    assert all(value.isfinite().all() for value in saved["state_dict"].values())


@pytest.mark.parametrize("told", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_process_that_is_told_to_end_ends_the_other(tmp_path, told) -> None:
    """Within a minute, and what happened stands in the log."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, script.__file__, str(tmp_path), "killed"]
    with (tmp_path / "log").open("w") as log:
        launched = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    files = [tmp_path / f"rank{rank}" for rank in (0, 1)]
    try:
        wait_for(lambda: all(file.exists() for file in files))
        processes = [int(file.read_text()) for file in files]
        os.kill(processes[told], signal.SIGTERM)
        wait_for(lambda: launched.poll() is not None and not runs(processes[1]), seconds=60)
    finally:
        launched.kill()
        launched.wait()
    assert launched.returncode != 0
    assert f"process {told} of 2 received SIGTERM and ends, and the others with it" in (tmp_path / "log").read_text()


def runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_fewer_images_than_processes_are_refused(monkeypatch) -> None:
    data = script.Noise(24, 1, 2)
    data.setup("validate")
    monkeypatch.setattr(data, "trainer", SimpleNamespace(world_size=2, global_rank=0))
    with pytest.raises(ValueError, match=r"the val split holds 1 image\(s\), fewer than there are processes \(2\)"):
        data.val_dataloader()
