"""Equal values have one fingerprint in every process; values, closures, attributes and source files change it."""

import enum
import functools
import importlib
import os
import random
import re
import subprocess
import sys
import threading
import types
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms import v2

from tmkd_lightning.utils.fingerprint import fingerprint

MODULE = """
import functools
import torch
class Held:
    shift = 2
    def __init__(self, number): self.number = number
    def __call__(self, x): return x + self.number + self.shift
def helper(x, by=4, *, more=5): return x if x in {"p", "q", "r"} else by
def closed(number): return lambda x: x + number
def made(number):
    class Made:
        def act(self, x): return x + number
    return Made
@functools.lru_cache
def cached(x): return x
@torch.no_grad()
def decorated(x): return x
"""
BUILT = {
    "class": "Held",
    "object": "Held(3)",
    "function": "helper",
    "partial": "functools.partial(helper, by=9)",
    "method": "Held(3).__call__",
    "lambda": "closed(6)",
    "made class": "made(6)",
    "cached": "cached",
    "decorated": "decorated",
    "strings": "[{'x', 'y', 'z'}, ['a' 'b'], frozenset({'x', 'y'})]",
}


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Imports the module above, changed in one place, and fingerprints what it holds."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def load(old: str = "", new: str = "") -> dict[str, str]:
        (tmp_path / "mine.py").write_text(MODULE.replace(old, new) if old else MODULE)
        monkeypatch.delitem(sys.modules, "mine", raising=False)
        importlib.invalidate_caches()
        return fingerprints(importlib.import_module("mine"))

    return load


def fingerprints(mine: types.ModuleType) -> dict[str, str]:
    return {name: fingerprint(eval(code, vars(mine)), name) for name, code in BUILT.items()}


@pytest.mark.parametrize(
    ("old", "new"), [("by=4", "by=5"), ('"q"', '"o"'), ("shift = 2", "shift = 3"), ("x + number", "x - number")]
)
def test_the_source_file_counts_for_all_that_it_defines(load, old: str, new: str) -> None:
    before, after = load(), load(old, new)
    assert {name for name in before if before[name] == after[name]} == {"strings"}
    assert load() == before


@pytest.mark.slow
def test_processes_agree_whatever_the_order_of_their_sets(load, tmp_path: Path) -> None:
    here = load()
    code = "import mine, test_fingerprint; print(test_fingerprint.fingerprints(mine))"
    path = os.pathsep.join([str(tmp_path), *map(str, sys.path)])
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path}
        there = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert there.stdout.strip() == str(here), there.stderr


class Shade(enum.Enum):
    DARK = 1
    LIGHT = 2


@dataclass
class Pair:
    one: object
    two: object = 0


class Careful:
    def __init__(self, path: str) -> None:
        self.path, self.file = path, threading.Event()

    def __getstate__(self) -> dict[str, str]:
        return {"path": self.path}


def ring(number: int) -> list:
    one: list = [number]
    one.append({"back": one})
    return one


def noted(source: str, slope: float = 1) -> Any:
    """What is built by code of a notebook, which has no file."""
    return eval(source, {"__name__": "notebook", "SLOPE": slope})


def hooked(limit: int | None) -> nn.Module:
    layer = linear(0)
    if limit is not None:
        layer.register_forward_hook(lambda module, args, output: output.clamp(max=limit))
    return layer


def linear(bias: float) -> nn.Module:
    layer = nn.Linear(2, 2)
    nn.init.ones_(layer.weight)
    nn.init.constant_(layer.bias, bias)
    return layer


def overridden(factor: int) -> nn.Module:
    layer = linear(0)
    layer.forward = types.MethodType(lambda self, image: factor * image, layer)
    return layer


@pytest.mark.parametrize(
    ("build", "one", "other"),
    [
        (lambda value: value, 1, True),
        (lambda value: value, 0.0, -0.0),
        (lambda value: value, "1", 1),
        (lambda value: value, ["ab", "c"], ["a", "bc"]),
        (lambda value: value, [1, [2]], [[1, 2]]),
        (lambda value: value, (1, 2), [1, 2]),
        (lambda value: value, {"a": 1, "b": 2}, {"a": 2, "b": 1}),
        (lambda value: {value, "b"}, "a", "c"),
        (lambda value: value, Shade.DARK, Shade.LIGHT),
        (lambda value: value, torch.float32, torch.float64),
        (lambda value: Pair(value), 1, 2),
        (lambda value: Pair([Pair(value)]).__eq__, 1, 2),
        (lambda value: f"{value}".upper, "a", "b"),
        (lambda value: re.compile(value), "a", "b"),
        (lambda value: Path(value), "a", "b"),
        (lambda value: np.datetime64(value), "2020-01-01", "2020-01-02"),
        (lambda value: np.array([(1, value)], dtype="i4,f8"), 1.0, 2.0),
        (lambda value: np.zeros(value), (0, 2), (2, 0)),
        (lambda value: np.arange(6).reshape(2, 3)[:, ::value], 1, 2),
        (lambda value: np.arange(4).reshape(value), (2, 2), (4, 1)),
        (lambda value: np.array([value], dtype=object), "a", "b"),
        (lambda value: np.float64(value), 0.1, 0.2),
        (lambda value: slice(value), 1, 2),
        (lambda value: torch.tensor(value), [1, 0], [True, False]),
        (lambda value: torch.full((2, 2), value).to_sparse(), 1.0, 2.0),
        (lambda value: torch.zeros(2, 3, dtype=torch.bfloat16) + value, 1, 2),
        (lambda value: torch.zeros(value, device="meta"), 1, 2),
        (lambda value: nn.Dropout().train(value), True, False),
        (lambda value: v2.Compose([v2.RandomCrop(8, padding=value), v2.Lambda(lambda x: x)]), 1, 2),
        (lambda value: v2.Compose([v2.Lambda(lambda x: x + value)]), 1, 2),
        (lambda value: functools.partial(int, **dict.fromkeys(value, 1)), "ab", "ac"),
        (ring, 1, 2),
        (Careful, "a", "b"),
        (linear, 1, 2),
        (overridden, 1, 2),
        (hooked, None, 1),
        (hooked, 50, 51),
        (hooked, 100, 101),
        # constants, attributes that are read, functions inside, and what a class holds
        (noted, "lambda x: x.clamp(max=6.)", "lambda x: x.clamp(max=60.)"),
        (noted, "lambda x: x.relu()", "lambda x: x.tanh()"),
        (noted, "lambda x: (lambda y: y * 1)(x)", "lambda x: (lambda y: y * 2)(x)"),
        (noted, "type('Mine', (), {'LIMIT': [1]})", "type('Mine', (), {'LIMIT': [2]})"),
        (
            noted,
            "type('Mine', (), {'scale': staticmethod(lambda: 1)})",
            "type('Mine', (), {'scale': staticmethod(lambda: 2)})",
        ),
        (lambda value: type("Own", (), {"act": lambda self, x: x + value}), 1, 2),
        (lambda value: type("Own", (), {"number": value}), 1, 2),
        (lambda slope: noted("lambda x: x * SLOPE", slope), 0.1, 0.2),
    ],
)
def test_equal_values_have_one_fingerprint_and_others_another(build, one, other) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, again, different = (fingerprint(build(value), "thing") for value in (one, one, other))
    assert first == again != different


def test_what_does_not_count(monkeypatch) -> None:
    """The state of a generator is another in each run, and whoever draws from one is noticed elsewhere."""
    torchs, method = lambda seed: torch.Generator().manual_seed(seed), lambda seed: random.Random(seed).uniform
    for build in (np.random.default_rng, np.random.RandomState, random.Random, torchs, method):
        one, other = (fingerprint([build(seed)], "augmentation") for seed in (1, 2))
        assert one == other != fingerprint([None], "augmentation")
    before = fingerprint([os.environ, os.environ.get], "augmentation")
    monkeypatch.setenv("JOB", "2")
    assert fingerprint([os.environ, os.environ.get], "augmentation") == before
    pairs = [Pair(value) for value in "ab"]
    assert len({fingerprint([pair, "same"], "list", ignored=[pair]) for pair in pairs}) == 1


def test_use_does_not_change_a_function_or_a_network() -> None:
    layer = linear(1)
    before = [fingerprint(part, "thing") for part in (ring, layer)]
    for _ in range(1000):
        ring(1)
    layer.compile()
    assert [fingerprint(part, "thing") for part in (ring, layer)] == before


def test_what_cannot_be_pickled_is_named() -> None:
    """An open file, say; what else the object holds still counts, and its class can say what matters."""
    found = set()
    with Path(__file__).open() as file:
        for number in (1, 2):
            with pytest.warns(UserWarning, match=r"the view holds a _io\.TextIOWrapper, which cannot be looked into"):
                found.add(fingerprint(Pair(Pair(number, file)), "the view"))
    assert len(found) == 2
