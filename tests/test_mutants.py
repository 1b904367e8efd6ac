"""The patches of `make mutants`: each still breaks what it says; whether tests notice, only running them tells."""

import ast
from pathlib import Path

import pytest

from run_mutants import FOLDER, ROOT, Mutant, PatchError, main, read

PATCHES = sorted(FOLDER.glob("*.patch"))

PATCH = """The sum is a difference.
Caught by: tests/test_sum.py

--- a/src/sum.py
+++ b/src/sum.py
@@ -1,3 +1,3 @@
 def add(a, b):

-    return a + b
+    return a - b
"""
SUM = "def add(a, b):\n\n    return a + b\n"


def test_every_patch_applies_and_gives_another_program() -> None:
    assert PATCHES
    for mutant in map(read, PATCHES):
        text = (ROOT / mutant.file).read_text()
        assert ast.dump(ast.parse(mutant.mutated(text))) != ast.dump(ast.parse(text)), mutant.name
        assert all((ROOT / test.split("::")[0]).is_file() for test in mutant.tests), mutant.name


def written(tmp_path: Path, patch: str = PATCH) -> Path:
    path = tmp_path / "minus.patch"
    path.write_text(patch)
    return path


def test_a_patch_is_applied_wherever_its_lines_have_moved(tmp_path: Path) -> None:
    """And not where they are gone, or in two places."""
    mutant = read(written(tmp_path))
    moved = f"import math\n\n\n{SUM}\n\ndef subtract(a, b):\n    return a - b\n"
    assert mutant.mutated(moved) == moved.replace("a + b", "a - b")
    parts = "minus", "The sum is a difference.", ("tests/test_sum.py",), "src/sum.py", SUM, SUM.replace("+", "-")
    assert mutant == Mutant(*parts)
    for text, times in (("", 0), (SUM.replace("a, b", "a, c"), 0), (SUM * 2, 2)):
        message = rf"minus\.patch no longer applies: its lines stand {times} times in src/sum\.py"
        with pytest.raises(PatchError, match=message):
            mutant.mutated(text)


@pytest.mark.parametrize("line", ["The sum is a difference.\n", "Caught by: tests/test_sum.py\n", "@@ -1,3 +1,3 @@\n"])
def test_what_is_no_patch(tmp_path: Path, line: str) -> None:
    with pytest.raises(PatchError, match=r"minus\.patch must hold a sentence, 'Caught by: tests', .* a diff"):
        read(written(tmp_path, PATCH.replace(line, "")))


def test_a_patch_that_no_longer_applies_is_told_before_anything_runs(tmp_path: Path, capsys) -> None:
    written(tmp_path, PATCH.replace("src/sum.py", "src/tmkd_lightning/teacher/fusion.py"))
    assert main(["--folder", str(tmp_path)]) == 1
    assert "minus.patch no longer applies: its lines stand 0 times in src/tmkd_light" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--only", "kl_swapped", "unheard_of"])
    assert "no mutant unheard_of in" in capsys.readouterr().err


@pytest.mark.slow
def test_survivors_are_told_from_the_caught(tmp_path: Path, capsys) -> None:
    """One that its tests notice, one that they do not, and one with which they cannot even start."""
    fusion, hysteresis = "teacher/test_fusion.py", "views/test_hysteresis.py"
    for name, word, tests in (("a", "minus", fusion), ("b", "minus", hysteresis), ("c", "syntax", fusion)):
        text = (FOLDER / "weights_over_classes.patch").read_text().replace("teacher/test_fusion.py", tests)
        (tmp_path / f"{name}.patch").write_text(text if word == "minus" else text.replace("(dim=0", "((dim=0"))
    assert main(["--folder", str(tmp_path), "--jobs", "1"]) == 1
    first, *lines, last = capsys.readouterr().out.splitlines()
    assert first.startswith("Without a mutant: 2 test files pass")
    assert lines[0] == "[ 1/3] a  tests/teacher/test_fusion.py::test_weight_net_is_equations_3_and_4"
    assert lines[1] == "[ 2/3] b  SURVIVED"
    assert lines[2].startswith("[ 3/3] c  COULD NOT BE JUDGED")
    assert last.startswith("1 of 3 mutants caught")
