"""All that wants a GPU, in one command: tests, benchmarks, a run on CIFAR-10, and the section of docs/performance.md.

    python examples/benchmarks/gpu.py --cifar10 data/cifar10 --cub200 data/cub200

`--cifar10` is a folder with train/<class>/ and test/<class>/ of JPEG files, `--cub200` one that holds CUB_200_2011;
what needs the one that is missing is left out, and the page says so. Each part has a time limit, 20 minutes in all, and
when one fails the others go on. What they say is in runs/gpu/<part>.log. Writes gpu.json beside this file, and from it
the section of the page; ends with status 1 if a part failed, and with 2 without a GPU.

`--small` tries the script itself on tiny sizes, on a CPU too; it writes runs/gpu.json, and no page.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from common import between

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PAGE = ROOT / "docs" / "performance.md"
BEGIN = "<!-- gpu: written by examples/benchmarks/gpu.py -->"
END = "<!-- gpu: end -->"
LOGS = Path("runs/gpu")
LEFT_OUT = "left out"


@dataclass(frozen=True)
class Part:
    """A command, how long it may take, and the benchmark whose result it writes to runs/."""

    name: str
    command: tuple[str, ...]
    minutes: float
    writes: str | None
    needs: str | None = None  # the option that it was not given


@dataclass(frozen=True)
class Outcome:
    """How a part ended, and its result."""

    name: str
    command: str
    status: str  # "done", or what happened instead
    seconds: float = 0.0
    result: dict[str, Any] = field(default_factory=dict)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", help="folder with train/<class>/ and test/<class>/")
    parser.add_argument("--cub200", help="folder that holds CUB_200_2011")
    parser.add_argument("--small", action="store_true", help="tiny sizes, on a CPU too, to try this script")
    options = parser.parse_args()
    if not (options.small or torch.cuda.is_available()):
        print("no GPU: PyTorch finds no CUDA device on this machine, so nothing was run", file=sys.stderr)
        return 2
    LOGS.mkdir(parents=True, exist_ok=True)
    outcomes = []
    for part in parts(options.cifar10, options.cub200, options.small):
        outcomes.append(run(part))
        print(f"{part.name}: {outcomes[-1].status}, {outcomes[-1].seconds:.0f} s", flush=True)
    record = {"machine": machine(), "parts": [asdict(outcome) for outcome in outcomes]}
    target = Path("runs/gpu.json") if options.small else HERE / "gpu.json"
    target.write_text(json.dumps(record, indent=2) + "\n")
    if not options.small:
        PAGE.write_text(between(PAGE.read_text(), BEGIN, END, section(record)))
    return int(any(not outcome.status.startswith(("done", LEFT_OUT)) for outcome in outcomes))


def parts(cifar10: str | None, cub200: str | None, small: bool) -> list[Part]:
    """What is run, in this order."""
    methods = ("--tmkd", "--methods", *(["none"] if small else ["none", "kd", "rkd", "sp", "cat_kd", "tekap"]))
    photos = cub200 or cifar10
    sizes = ("32",) if small or not cub200 else ("32", "112", "224", "448")
    steps = ("--steps", "1", "--warm_up", "1") if small else ("--steps", "30", "--warm_up", "10")
    batch, workers = ("4", "0") if small else ("128", "8")
    loading = ("--workers", workers, "--batch_size", "4" if small else "64")
    few = ("--val_fraction", "0.5" if small else "0.1", "--rounds", "1", "--batch_size", batch, "--workers", workers)
    epochs = ("--epochs", "2", "--batches", "2") if small else ("--epochs", "5")
    folder = "tmkd_lightning.data.ImageFolderDataModule"

    def part(name: str, minutes: float, *arguments: str | None, script: str, needs: str | None = None) -> Part:
        command = ("python", f"examples/benchmarks/{script}.py", *(str(each) for each in arguments))
        missing = needs if None in arguments else None
        return Part(name, command, minutes, script, missing)

    marker = ("tests/views/test_views.py",) if small else ()
    return [
        Part("tests", ("python", "-m", "pytest", "-q", "-m", "gpu", *marker), 4, None),
        part("views", 2, "--photos", photos, "--sizes", *sizes, "--rounds", "1" if small else "20", script="views",
             needs="--cub200 or --cifar10"),
        part("step, small", 2, "--pair", "wrn", *methods, *steps, "--batch_size", batch, script="step"),
        part("step, large", 2, "--pair", "resnet", *methods, *steps, "--batch_size", "2" if small else "64",
             script="step"),
        part("loader", 3, "--roots", cub200, *loading, "--rounds", "1" if small else "3", script="loader",
             needs="--cub200"),
        part("cache", 4, "--data", folder, "--root", cifar10, *few, script="cache", needs="--cifar10"),
        part("cifar10", 3, "--root", cifar10, *epochs, "--batch_size", batch, "--workers", workers, script="cifar10",
             needs="--cifar10"),
    ]  # fmt: skip


def run(part: Part) -> Outcome:
    """Runs a part to its end or its limit; one that fails is told of, and raises nothing."""
    command = " ".join(part.command)
    if part.needs is not None:
        return Outcome(part.name, "", f"{LEFT_OUT}: {part.needs} was not given")
    result = None if part.writes is None else Path(f"runs/{part.writes}.json")
    if result is not None:
        result.unlink(missing_ok=True)
    start, log = time.monotonic(), LOGS / f"{part.name.replace(', ', '_')}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *part.command[1:]], stdout=output, stderr=output, start_new_session=True
        )
        try:
            status = process.wait(60 * part.minutes)
            ended = "done" if status == 0 else f"failed with status {status}"
        except subprocess.TimeoutExpired:
            ended = f"stopped after {part.minutes:g} minutes"
        finally:
            if process.poll() is None:  # its loading processes too
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    seconds, said = time.monotonic() - start, log.read_text(errors="replace").strip().splitlines()
    found: dict[str, Any] = {}
    if ended != "done" or result is None:
        found["said"] = said[-15:] if ended != "done" else said[-1:]
    elif result.exists():
        found = json.loads(result.read_text())
    else:
        ended = f"failed: it wrote no {result}"
    return Outcome(part.name, command, ended, seconds, found)


def machine() -> dict[str, Any]:
    """What the numbers are of."""
    command = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return {"device": device, "cores": os.cpu_count(), "torch": torch.__version__, "commit": commit or "unknown"}


def section(record: dict[str, Any]) -> str:
    """The section of the page: a heading and a table, or what happened instead, for each part."""
    of = record["machine"]
    texts = [
        f"On {of['device']}, {of['cores']} CPU cores, torch {of['torch']}, commit {of['commit']}; one run of each."
    ]
    for part in record["parts"]:
        name = part["name"].capitalize()
        if part["status"] != "done":
            texts.append(f"**{name}**: {part['status']}.")
            continue
        texts.append(f"**{name}**, `{part['command']}`:")
        if "rows" in part["result"]:
            rows = [
                {name: value for name, value in row.items() if not isinstance(value, list)}  # of each round
                for row in part["result"]["rows"]
            ]
            table = pd.DataFrame(rows).astype(object)
            texts.append(table.where(table.notna(), None).to_markdown(index=False, floatfmt=".4g"))
        else:
            texts.append(re.sub(r"^[= ]+|[= ]+$", "", part["result"]["said"][-1]) + ".")
    return "\n\n".join(texts)


if __name__ == "__main__":
    sys.exit(main())
