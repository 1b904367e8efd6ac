"""Equal contents have one digest, in every process; whatever may change what an object does changes it."""

from __future__ import annotations

import copy
import enum
import functools
import importlib
import inspect
import os
import random
import re
import subprocess
import sys
import threading
import tracemalloc
import types
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms import v2

from tmkd_lightning.utils.contents import _Reader, digest_of_contents
from tmkd_lightning.utils.names_used import library, used_by

MODULE = """
import functools
import torch
from other import deeper
import other
SLOPE = 0.1
TABLE = {"a": [1, 2], "b": {"x", "y", "z"}}
class Held:
    shift = 2
    def __init__(self, number): self.number = number
    def __call__(self, x): return helper(x) + self.number + self.shift
HELD = Held(3)
def helper(x, by=4, *, more=5): return x * SLOPE if x in {"p", "q", "r"} else deeper(x)
def through_module(x): return other.further(x)
def with_lambda(x): return (lambda y: helper(y))(x)
def with_object(x): return HELD(x)
def imports_inside(x):
    from other import further
    return further(x)
def recursive(x): return recursive(x - 1) if x else TABLE
def closed(number):
    def inner(x): return x + number
    return inner
@functools.lru_cache
def kept(x): return helper(x)
@torch.no_grad()
def decorated(x): return helper(x)
class Slots:
    __slots__ = ("one",)
    def __init__(self): self.one = SLOPE
class Bag(set): pass
class Rule(type):
    def __dir__(cls): return (lambda names: sorted(names))(vars(cls))
class Ruled(metaclass=Rule): pass
def closes_module():
    import other as inside
    return lambda x: inside.further(x)
def by_default(x, module=other): return module.further(x)
def by_name(x): return getattr(other, "fur" + "ther")(x)
"""
OTHER = """
import below
DEPTH = 1
def deeper(x): return x + DEPTH
def further(x): return below.least(x - 7)
"""
BELOW = """
BELOW = 0
def least(x): return max(x, BELOW)
"""
NAMES = ["helper", "through_module", "with_lambda", "with_object", "imports_inside", "recursive", "kept", "decorated"]
NAMES += ["Held", "HELD", "Slots", "TABLE"]
MADE = {
    "inner": "closed(6)",
    "slots": "Slots()",
    "Ruled": "Ruled",
    "held module": "[other]",
    "partial": "functools.partial(helper, by=9)",
    "bag": "Bag('abc')",
}
MADE |= {"closed module": "closes_module()", "default": "by_default", "by its name": "by_name"}


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Imports the modules above, changed in one place, and digests what they hold."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def load(old: str = "", new: str = "") -> dict[str, str]:
        assert not old or (MODULE + OTHER + BELOW).count(old) == 1
        for name, text in (("below", BELOW), ("mine", MODULE), ("other", OTHER)):
            (tmp_path / f"{name}.py").write_text(text.replace(old, new) if old else text)
            monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()
        mine = importlib.import_module("mine")
        for name in ("below", "other", "mine"):
            monkeypatch.setitem(sys.modules, name, sys.modules[name])
        return digests(mine)

    return load


def digests(mine: types.ModuleType) -> dict[str, str]:
    things = {name: getattr(mine, name) for name in NAMES} | {
        name: eval(code, vars(mine)) for name, code in MADE.items()
    }
    return {name: digest_of_contents(thing, name) for name, thing in things.items()}


def test_two_imports_of_one_source_are_one(load) -> None:
    assert load() == load()


THROUGH_MODULES = {"through_module", "imports_inside", "closed module", "held module", "default", "by its name"}
CALLERS = {"helper", "with_lambda", "with_object", "kept", "decorated", "Held", "HELD", "partial"}


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("SLOPE = 0.1", "SLOPE = 0.2", CALLERS | {"slots", "Slots"}),
        ('"p", "q"', '"p", "o"', CALLERS),
        ("by=4", "by=5", CALLERS),
        ("more=5", "more=6", CALLERS),
        ("DEPTH = 1", "DEPTH = 2", CALLERS | THROUGH_MODULES),
        ("x - 7", "x - 8", THROUGH_MODULES),
        ("BELOW = 0", "BELOW = 1", {"through_module", "imports_inside", "closed module"}),
        ("sorted(names)", "list(names)", {"Ruled"}),
        ("shift = 2", "shift = 3", {"Held", "HELD", "with_object"}),
        ("Held(3)", "Held(4)", {"HELD", "with_object"}),
        ('"x", "y"', '"x", "w"', {"TABLE", "recursive"}),
        ("x + number", "x - number", {"inner"}),
        ("import functools\n", "import functools  # a comment\n\n\n", set()),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_change_reaches(load, old: str, new: str, changed: set[str]) -> None:
    """A constant, a default, a helper's helper, a class, an object: each counts wherever it is used, and only there."""
    before, after = load(), load(old, new)
    assert {name for name in before if before[name] != after[name]} == changed


@pytest.mark.slow
def test_processes_agree_whatever_the_order_of_their_sets(load, tmp_path: Path) -> None:
    here = load()
    code = "import mine, test_contents; print(test_contents.digests(mine))"
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


class Handle:
    def __init__(self, path: str) -> None:
        self.path, self.file = path, threading.Event()


class Careful(Handle):
    def __getstate__(self) -> dict[str, str]:
        return {"path": self.path}


def ring(number: int) -> list:
    one: list = [number]
    one.append({"back": one})
    return one


def hooked(factor: int) -> nn.Module:
    torch.manual_seed(0)
    layer = nn.Linear(2, 2)
    layer.register_forward_hook(functools.partial(hook, factor=factor))
    return layer


def hook(module, args, output, factor: int):
    return output * factor


def overridden(factor: int) -> nn.Module:
    layer = hooked(1)
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
        (lambda value: value, Shade.DARK, Shade.LIGHT),
        (lambda value: value, torch.float32, torch.float64),
        (lambda value: Pair(value), 1, 2),
        (lambda value: Pair([Pair(value)]).__eq__, 1, 2),  # a method of an object
        (lambda value: f"{value}".upper, "a", "b"),
        (lambda value: re.compile(value), "a", "b"),
        (lambda value: Path(value), "a", "b"),
        (lambda value: np.datetime64(value), "2020-01-01", "2020-01-02"),
        (lambda value: np.array([(1, value)], dtype="i4,f8"), 1.0, 2.0),
        (lambda value: np.zeros(value), (0, 2), (2, 0)),
        (lambda value: np.zeros(2, f"S{value}")[:value], 0, 1),
        (lambda value: np.arange(6).reshape(2, 3)[:, ::value], 1, 2),
        (lambda value: slice(value), 1, 2),
        (lambda value: np.arange(4).reshape(value), (2, 2), (4, 1)),
        (lambda value: np.array([value], dtype=object), "a", "b"),
        (lambda value: np.float64(value), 0.1, 0.2),
        (lambda value: torch.tensor(value), [1, 0], [True, False]),
        (lambda value: torch.full((2, 2), value).to_sparse(), 1.0, 2.0),
        (lambda value: torch.zeros(2, 3, dtype=torch.bfloat16) + value, 1, 2),
        (lambda value: v2.Compose([v2.RandomCrop(8, padding=value), v2.Lambda(lambda x: x)]), 1, 2),
        (lambda value: v2.Compose([v2.Lambda(lambda x: x + value)]), 1, 2),
        (ring, 1, 2),
        (hooked, 1, 2),
        (overridden, 1, 2),
        (lambda value: functools.partial(hook, **dict.fromkeys(value, 1)), "ab", "ac"),
    ],
)
def test_equal_ones_are_one_and_others_are_not(build, one, other) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, again, different = (digest_of_contents(build(value), "thing") for value in (one, one, other))
    assert first == again != different


@pytest.mark.parametrize(
    "build",
    [
        np.random.default_rng,
        np.random.PCG64,
        np.random.RandomState,
        random.Random,
        lambda seed: torch.Generator().manual_seed(seed),
        lambda seed: random.Random(seed).uniform,
        lambda seed: random.Random(seed).random,
        lambda seed: np.random.default_rng(seed).normal,
    ],
)
def test_the_state_of_a_generator_does_not_count(build) -> None:
    """It is another in each run, and whoever draws from one is noticed elsewhere."""
    one, other = (digest_of_contents([build(seed)], "augmentation") for seed in (1, 2))
    assert one == other != digest_of_contents([None], "augmentation")


def test_the_environment_does_not_count(monkeypatch) -> None:
    before = digest_of_contents([os.environ, os.environ.get], "augmentation")
    monkeypatch.setenv("JOB", "2")
    assert digest_of_contents([os.environ, os.environ.get], "augmentation") == before


def test_an_array_on_a_disk_is_not_copied_into_memory(tmp_path: Path) -> None:
    held = np.memmap(tmp_path / "held", dtype=np.float32, mode="w+", shape=(1000, 1000))
    tracemalloc.start()
    digest_of_contents(held, "images")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < held.nbytes / 2


def test_using_a_function_does_not_change_it() -> None:
    """Python rewrites the code of what runs often."""
    before = digest_of_contents(ring, "ring")
    for _ in range(1000):
        ring(1)
    assert digest_of_contents(ring, "ring") == before


def test_copying_an_object_does_not_change_its_class() -> None:
    """Python notes the names of its slots there."""

    class Fresh(Pair):
        pass

    before = digest_of_contents(Fresh(1), "thing")
    assert digest_of_contents(copy.deepcopy(Fresh(1)), "thing") == before == digest_of_contents(Fresh(1), "thing")


def test_training_modes_count_unless_they_are_not_to() -> None:
    one, other = nn.Dropout(), nn.Dropout().eval()
    assert digest_of_contents(one, "net") != digest_of_contents(other, "net")
    assert digest_of_contents(one, "net", modes=False) == digest_of_contents(other, "net", modes=False)


def test_what_is_skipped_does_not_count() -> None:
    found = {
        digest_of_contents([value, "same"], "list", skip=lambda part: type(part) is Pair) for value in map(Pair, "ab")
    }
    assert len(found) == 1


def test_what_cannot_be_looked_into_is_named() -> None:
    """An open file, say; what else the object holds still counts, and its class can say what matters."""
    found = set()
    with Path(__file__).open() as file:
        for number in (1, 2):
            with pytest.warns(UserWarning, match=r"the view\.one\.two \(a _io\.TextIOWrapper\) cannot be looked into"):
                found.add(digest_of_contents(Pair(Pair(number, file)), "the view"))
    assert len(found) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one, again, other = (digest_of_contents(Careful(path), "the view") for path in "aab")
    assert one == again != other


def chain(first: int, length: int = 250):
    code = [f"def f{place}(x): return f{place + 1}(x)" for place in range(1, length)]
    scope: dict = {}
    exec("\n".join([f"def f0(x): return f1(x + {first})", *code, f"def f{length}(x): return x"]), scope)
    return scope["f0"]


def test_what_is_nested_too_deeply_is_left_out_with_one_warning() -> None:
    deep: list = []
    for _ in range(5000):
        deep = [deep]
    for thing in ([deep, deep], chain(1)):
        with pytest.warns(UserWarning, match="what is nested more than 300 levels deep in the view cannot") as caught:
            digest_of_contents(thing, "the view")
        assert len(caught) == 1
    with pytest.warns(UserWarning, match="levels deep"):
        one, again, other = (digest_of_contents(chain(first), "the view") for first in (1, 1, 2))
    assert one == again != other


def test_a_stack_without_room_is_no_error() -> None:
    def below(levels: int) -> str:
        return below(levels - 1) if levels else digest_of_contents(chain(1), "the view")

    room = sys.getrecursionlimit() - len(inspect.stack()) - 100
    with pytest.warns(UserWarning, match="the view, which is nested too deeply, cannot be looked into"):
        assert len(below(room)) == 64


def test_a_set_of_functions_that_call_each_other_has_one_digest() -> None:
    """Whichever of them comes first."""
    scope: dict = {}
    exec("def f(x): return g(x - 1) if x else 0\ndef g(x): return f(x - 1) if x else 1", scope)

    class Ordered(frozenset):
        def __iter__(self):
            return iter(sorted(super().__iter__(), key=lambda part: part.__name__, reverse=Ordered.back))

    found = set()
    for Ordered.back in (False, True):
        found.add("".join(_Reader(lambda _: False, True)._set(Ordered([scope["f"], scope["g"]]))[2:]))
    assert len(found) == 1


# What is installed


def test_installed_code_counts_by_version_and_file(tmp_path: Path, monkeypatch) -> None:
    assert re.fullmatch(rf"torch {re.escape(torch.__version__)} [0-9a-f]{{64}}", library("torch.nn.functional"))
    monkeypatch.syspath_prepend(tmp_path / "site-packages")
    package = tmp_path / "site-packages" / "bought_one.py"
    package.parent.mkdir()
    seen = set()
    for text in ("__version__ = '1'", "__version__ = '2'", "__version__ = '2'  # mended"):
        package.write_text(f"{text}\nNUMBER = 1\ndef act(x): return NUMBER\n")
        monkeypatch.delitem(sys.modules, "bought_one", raising=False)
        importlib.invalidate_caches()
        library.cache_clear()
        module = importlib.import_module("bought_one")
        first = digest_of_contents(module.act, "act")
        module.NUMBER = 2  # what it names is its own affair
        assert digest_of_contents(module.act, "act") == first
        seen.add(first)
    assert len(seen) == 3


def test_attributes_do_not_count_as_globals() -> None:
    """A function that reads ``image.library`` does not read this module's ``library``."""

    def reads(image):
        return image.library + len(NAMES)

    assert used_by(reads) == {"NAMES": NAMES}
