"""Imports inside the package only ever point down one list."""

import ast
from pathlib import Path

import tmkd_lightning

ROOT = Path(tmkd_lightning.__file__).parent
# From bottom to top; what stands on one line may import its neighbours, and the graph must still have no circle.
LAYERS = [
    {"utils"},
    {"losses", "text"},
    {"views", "feature_extraction"},
    {"models", "distillers"},
    {"teacher"},
    {"lightning_compat", "figures"},
    {"callbacks"},
    {"modules"},
    {"export"},
    {"cli", "__main__", "__init__"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names} | {"data": 0}


def imports() -> set[tuple[str, str]]:
    """Pairs (importing, imported) of the package's first-level parts."""
    pairs = set()
    for path in ROOT.rglob("*.py"):
        importer = path.relative_to(ROOT).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tmkd_lightning."):
                pairs.add((importer, node.module.split(".")[1]))
    return {(one, other) for one, other in pairs if one != other}


def test_every_part_has_a_layer() -> None:
    parts = {path.name.removesuffix(".py") for path in ROOT.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert parts - {"__pycache__", "py.typed"} == set(RANK)


def test_imports_point_down() -> None:
    """Without a circle; data are a column of their own."""
    edges = imports()
    assert {(one, other) for one, other in edges if other != "data" and RANK[one] < RANK[other]} == set()
    assert {other for one, other in edges if one == "data"} <= LAYERS[0]
    assert {one for one, other in edges if other == "data"} <= {"export", "cli"}
    while leaves := {other for _, other in edges} - {one for one, _ in edges}:
        edges = {(one, other) for one, other in edges if other not in leaves}
    assert not edges


def body_lines(function: ast.FunctionDef) -> int:
    """Lines of a function without its signature and its docstring."""
    first = function.body[1] if ast.get_docstring(function) and len(function.body) > 1 else function.body[0]
    return function.end_lineno - first.lineno + 1


def test_functions_are_short() -> None:
    files = {path.relative_to(ROOT): ast.walk(ast.parse(path.read_text())) for path in ROOT.rglob("*.py")}
    functions = [(file, node) for file, nodes in files.items() for node in nodes if isinstance(node, ast.FunctionDef)]
    assert not [f"{file}:{node.name}" for file, node in functions if body_lines(node) > 60]
