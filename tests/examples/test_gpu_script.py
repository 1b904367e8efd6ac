"""The script of `make gpu`: what it does without a GPU, and what it makes of parts that end in different ways."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "examples" / "benchmarks"
MACHINE = {"device": "a GPU", "cores": 16, "torch": "2.14", "commit": "abc"}
ROWS = [{"what": "canny", "ms": 1.23456, "ratios": [1, 2]}, {"what": "Kornia", "ms": 2.0, "agreement": 0.5}]


@pytest.fixture
def script(monkeypatch, tmp_path) -> Iterator[ModuleType]:
    """The script, in an empty folder."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.chdir(tmp_path)
    script = importlib.import_module("gpu")
    script.LOGS.mkdir(parents=True)
    yield script
    for name in set(sys.modules) - before:
        if (FOLDER / f"{name}.py").exists():
            del sys.modules[name]


def part(script, code: str, **options):
    return script.Part("a, part", ("python", "-c", code), **{"minutes": 1, "writes": None, **options})


def test_without_a_gpu_it_ends_at_once(script, monkeypatch, capsys) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(subprocess, "Popen", None)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    assert script.main() == 2
    assert capsys.readouterr().err == ("no GPU: PyTorch finds no CUDA device on this machine, so nothing was run\n")


def test_how_parts_end(script) -> None:
    write = "import json; open('runs/views.json', 'w').write(json.dumps({'rows': [1]}))"
    done = script.run(part(script, write, writes="views"))
    assert (done.status, done.result) == ("done", {"rows": [1]})
    assert script.run(part(script, "pass", writes="views")).status == "failed: it wrote no runs/views.json"
    tested = script.run(part(script, "print('x'); print('== 3 passed ==')"))
    assert (tested.status, tested.result) == ("done", {"said": ["== 3 passed =="]})
    failed = script.run(part(script, "print('too bad'); raise SystemExit(3)"))
    assert (failed.status, failed.result) == ("failed with status 3", {"said": ["too bad"]})
    assert Path("runs/gpu/a_part.log").read_text() == "too bad\n"
    slow = script.run(part(script, "import time; time.sleep(60)", minutes=0.01))
    assert slow.status == "stopped after 0.01 minutes"
    assert slow.seconds < 30
    missing = script.run(part(script, "raise SystemExit(3)", needs="--cub200"))
    assert (missing.status, missing.seconds) == ("left out: --cub200 was not given", 0)


def test_what_needs_data_that_are_not_there_is_left_out(script) -> None:
    def left_out(*folders: str | None) -> list[str]:
        return [each.name for each in script.parts(*folders, small=False) if each.needs]

    assert left_out(None, None) == ["views", "loader", "cache", "cifar10"]
    assert left_out("photos", None) == ["loader"]
    assert left_out(None, "birds") == ["cache", "cifar10"]
    assert sum(each.minutes for each in script.parts("photos", "birds", small=False)) == 20


def test_one_failure_stops_nothing_and_is_on_the_page(script, monkeypatch, tmp_path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"a\n{script.BEGIN}\nold\n{script.END}\nb")
    wanted = [part(script, "raise SystemExit(3)"), part(script, "print('== 3 passed ==')")]
    monkeypatch.setattr(script, "parts", lambda *_: wanted)
    monkeypatch.setattr(script, "machine", lambda: MACHINE)
    monkeypatch.setattr(script, "PAGE", page)
    monkeypatch.setattr(script, "HERE", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    assert script.main() == 1
    head = "On a GPU, 16 CPU cores, torch 2.14, commit abc; one run of each."
    said = "**A, part**, `python -c print('== 3 passed ==')`:\n\n3 passed."
    assert page.read_text() == (
        f"a\n{script.BEGIN}\n\n{head}\n\n**A, part**: failed with status 3.\n\n{said}\n\n{script.END}\nb"
    )
    assert [each["status"] for each in json.loads((tmp_path / "gpu.json").read_text())["parts"]] == [
        "failed with status 3",
        "done",
    ]


def test_the_table_of_a_benchmark(script) -> None:
    done = {"name": "views", "command": "python views.py", "status": "done", "result": {"rows": ROWS}}
    lines = script.section({"machine": MACHINE, "parts": [done]}).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[4:]]
    assert [cells[0], *cells[2:]] == [["what", "ms", "agreement"], ["canny", "1.235", ""], ["Kornia", "2", "0.5"]]


def test_the_page_has_the_section(script) -> None:
    page = script.PAGE.read_text()
    assert page.index("## On a GPU") < page.index(script.BEGIN) < page.index(script.END)
    kept = FOLDER / "gpu.json"
    if kept.exists():
        assert script.section(json.loads(kept.read_text())) in page
