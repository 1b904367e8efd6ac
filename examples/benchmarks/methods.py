"""Writes the table of base methods into README.md and docs/methods/index.md, from the classes themselves.

    python examples/benchmarks/step.py --pair wrn --methods all --clock cpu --rounds 3 --steps 4 --warm_up 1
    python examples/benchmarks/methods.py --costs runs/step.json

Without `--costs` it takes those that were measured last, in methods.json beside it. A method that is exported from
`tmkd_lightning.distillers` is in the table; its paper is the one that its docstring names as the Source.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
from pathlib import Path
from typing import Any, get_args

from common import between, make_method, shipped_methods
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tmkd_lightning import TMKDModule
from tmkd_lightning.distillers import Distiller
from tmkd_lightning.feature_extraction.output import Part
from tmkd_lightning.models import WideResNet
from tmkd_lightning.models.reused_head import ReusedHead

ROOT = Path(__file__).resolve().parents[2]
COSTS = Path(__file__).with_suffix(".json")
PAGES = {
    ROOT / "README.md": "docs/methods/",
    ROOT / "docs" / "methods" / "index.md": "",
}  # and where methods' pages are
BEGIN = "<!-- methods: written by examples/benchmarks/methods.py -->"
END = "<!-- methods: end -->"
ONE_TERM = {"feature_weight": 0, "logit_weight": 0, "text_weight": 0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--costs", type=Path, help="what step.py has written, to be kept in methods.json")
    options = parser.parse_args()
    if options.costs is not None:
        COSTS.write_text(json.dumps(relative_costs(json.loads(options.costs.read_text())), indent=2) + "\n")
    for page, folder in PAGES.items():
        page.write_text(with_table(page.read_text(), table(folder)))


def relative_costs(result: dict[str, Any]) -> dict[str, Any]:
    """Each method's step in units of KD's, both against the step of the networks beside them, and how it was timed."""
    ratios = {row["method"]: row["ratio"] for row in result["rows"]}
    steps = {name: round(ratio / ratios["kd"], 3) for name, ratio in ratios.items()}
    command = " ".join(["python examples/benchmarks/step.py", *result["command"][1:]])
    machine = {key: result["machine"][key] for key in ("device", "cores", "threads")}
    return {"step / step of KD": steps, "command": command, "machine": machine, "versions": result["versions"]}


def with_table(page: str, table: str) -> str:
    """A page with another table between its two markers."""
    return between(page, BEGIN, END, table)


def table(folder: str) -> str:
    """The table in Markdown, in alphabetical order, with links to the methods' pages in a folder."""
    costs = json.loads(COSTS.read_text())["step / step of KD"]
    methods = sorted(shipped_methods().items(), key=lambda item: item[1].__name__.lower())
    rows = [row(name, kind, folder, costs.get(name)) for name, kind in methods]
    lines = [rows[0].keys(), ["---"] * len(rows[0]), *(each.values() for each in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def row(name: str, kind: type[Distiller], folder: str, cost: float | None) -> dict[str, str]:
    """What is known of one method, by the heads of the columns."""
    method, student = build(name)
    text = (ROOT / "docs" / "methods" / f"{name}.md").read_text()
    links = re.findall(r"\]\((https?://[^)\s]+)\)", text)
    source = paper(kind)
    return {
        "Method": f"[`{kind.__name__}`]({folder}{name}.md)",
        "Paper": f"[{source}]({links[-1]})" if links else source,
        "Reads": reads(method),
        "With a ViT": "no" if "feature_map" in method.reads else "yes",
        "Trains": trains(method, student),
        "Smallest batch": str(method.min_batch),
        "N devices": devices(kind, method),
        "Step / KD's": "not measured" if cost is None else f"{cost:.2f}",
    }


def build(name: str) -> tuple[Distiller, nn.Module]:
    """A method with its layers, and its student, as the module makes them for a pair of small networks."""
    teacher, student = (WideResNet(10, widen_factor, num_classes=10) for widen_factor in (2, 1))
    method = make_method(name)
    module = TMKDModule(teacher, student, distiller=method, views=["rgb"], **ONE_TERM)
    (part,) = module.distiller.parts
    return part, module.student


def paper(kind: type[Distiller]) -> str:
    """Authors and year in the Source of the docstring, or what stands there up to the first comma."""
    source = re.search(r"Source: (.+)", inspect.getdoc(kind) or "")
    if source is None:
        raise ValueError(f"the docstring of {kind.__name__} names no Source")
    authors = re.match(r".+? \d{4}\b", source[1])
    return authors[0] if authors else source[1].split(",")[0].replace("``", "`")


def reads(method: Distiller) -> str:
    """Parts of the outputs, and the label where a distribution does not do."""
    parts = [part for part in get_args(Part) if part in method.reads or (part == "logits" and method.reads_logits)]
    also = ["one class an image"] * method.needs_class + ["its place in the data"] * method.needs_index
    return ", ".join([part.replace("_", " ") for part in parts] + also)


def trains(method: Distiller, student: nn.Module) -> str:
    """Layers of the method's own, and those that it has put around the student."""
    layers = [*method.named_children(), *(student.named_children() if isinstance(student, ReusedHead) else ())]
    names = [name for name, layer in layers if any(p.requires_grad for p in layer.parameters()) and name != "network"]
    return ", ".join(names).replace("_", " ") or "–"


def devices(kind: type[Distiller], method: Distiller) -> str:
    """How the losses of N devices with a share of the batch each relate to that of one with all of it."""
    if "gather" in inspect.signature(kind).parameters:
        return "local batches, or as one with `gather`"
    norms = [module for module in method.modules() if isinstance(module, _BatchNorm)]
    if norms:
        return "as one, but for the BatchNorm"
    return "see its page" if list(method.buffers()) else "as one"


if __name__ == "__main__":
    main()
