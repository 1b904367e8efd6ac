"""Breaks the library on purpose, one place at a time, and tells which test notices.

    python tests/run_mutants.py                 # all mutants
    python tests/run_mutants.py --only kl_swapped teacher_trains

A mutant is a patch in ``tests/mutants``: what it breaks, ``Caught by:`` with the tests that shall notice, and a unified
diff of one place in ``src``. Exit status 1 means that a mutant survived, no longer applies or could not be judged, or
that the tests fail without any.
"""

import argparse
import io
import multiprocessing
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "tests" / "mutants"
SECONDS = 300  # for the tests of one mutant; a test that is still running then has noticed
# Imported once, before the process that every mutant gets is forked; nothing of ours, which is each mutant's own.
PRELOADED = ["lightning.pytorch", "torchvision", "kornia", "open_clip", "sklearn.metrics", "timm", "wandb", "pytest"]

_FORM = re.compile(
    r"(?P<breaks>.+)\nCaught by: (?P<tests>.+)\n\n--- a/(?P<file>src/.+)\n\+\+\+ b/(?P=file)\n@@ .+ @@.*\n"
    r"(?P<lines>(?:[ +-].*\n|\n)+)"
)


class PatchError(ValueError):
    """A patch that is no patch, or whose lines are no longer in the source."""


@dataclass(frozen=True)
class Mutant:
    """One patch: in `file`, the lines `after` come in place of the lines `before`."""

    name: str
    breaks: str
    tests: tuple[str, ...]  # files or ids that shall notice, in the order in which they are run
    file: str
    before: str
    after: str

    def mutated(self, text: str) -> str:
        """Applies the patch to the text of its file. Line numbers do not count: the lines must be there just once."""
        mutated, found = re.subn("^" + re.escape(self.before), lambda _: self.after, text, flags=re.MULTILINE)
        if found != 1:
            raise PatchError(f"{self.name}.patch no longer applies: its lines stand {found} times in {self.file}")
        return mutated


def read(path: Path) -> Mutant:
    """Reads a patch."""
    form = _FORM.fullmatch(path.read_text())
    if form is None:
        raise PatchError(
            f"{path.name} must hold a sentence, 'Caught by: tests', an empty line, and a diff of one place"
        )
    lines = [line or " " for line in form["lines"].splitlines()]
    before, after = ("".join(f"{line[1:]}\n" for line in lines if line[0] in kept) for kept in (" -", " +"))
    return Mutant(path.stem, form["breaks"], tuple(form["tests"].split()), form["file"], before, after)


class FirstFailure:
    """Pytest plugin: remembers the first test that failed."""

    test: str | None = None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called by pytest for every part of every test."""
        if report.failed and self.test is None:
            self.test = report.nodeid


def first_failure(tests: Iterable[str], mutant: Mutant | None = None) -> str | None:
    """The first test that fails on a copy of the source, in a process that has imported nothing of ours."""
    with TemporaryDirectory() as folder:
        src = Path(shutil.copytree(ROOT / "src", Path(folder) / "src", ignore=shutil.ignore_patterns("__pycache__")))
        if mutant is not None:
            target = Path(folder) / mutant.file
            target.write_text(mutant.mutated(target.read_text()))
        os.chdir(ROOT)
        os.environ["PYTHONPATH"] = str(src)  # of processes that tests start
        sys.path.insert(0, str(src))
        noticed = FirstFailure()
        signal.signal(signal.SIGALRM, _too_long)
        signal.alarm(SECONDS)
        options = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow and not gpu", "-o", "addopts="]
        options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of plugins that are preloaded
        with redirect_stdout(io.StringIO()) as said:
            status = pytest.main([*options, *tests], plugins=[noticed])
        signal.alarm(0)
        used = Path(sys.modules["tmkd_lightning"].__file__ or "") if "tmkd_lightning" in sys.modules else Path()
    if status != (0 if noticed.test is None else 1) or not used.is_relative_to(src):
        raise RuntimeError(f"pytest ended with status {status} on {used}:\n{said.getvalue()[-2000:]}")
    return noticed.test


def _too_long(*_: object) -> None:
    raise TimeoutError(f"not done after {SECONDS} seconds")


def judge(mutants: list[Mutant], jobs: int) -> int:
    """Prints a line for each mutant; gives the exit status."""
    start, width, survived = time.monotonic(), max(len(mutant.name) for mutant in mutants), 0
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with ProcessPoolExecutor(jobs, context, max_tasks_per_child=1) as pool:
        named = sorted({test for mutant in mutants for test in mutant.tests})
        print(f"Without a mutant: {len(named)} test files", end=" ", flush=True)
        passing = [pool.submit(first_failure, [test]) for test in named]  # each has the time that a mutant has
        failures = [failure for failure in (result.result() for result in passing) if failure is not None]
        if failures:
            print(f"fail already: {', '.join(failures)}")
            return 1
        print(f"pass ({time.monotonic() - start:.0f} s)", flush=True)
        running = [pool.submit(first_failure, mutant.tests, mutant) for mutant in mutants]
        for number, (mutant, result) in enumerate(zip(mutants, running, strict=True), start=1):
            caught, verdict = _verdict(result)
            survived += not caught
            print(f"[{number:2}/{len(mutants)}] {mutant.name:{width}}  {verdict}", flush=True)
    print(f"{len(mutants) - survived} of {len(mutants)} mutants caught, in {time.monotonic() - start:.0f} s")
    return int(survived > 0)


def _verdict(result: Future[str | None]) -> tuple[bool, str]:
    try:
        test = result.result()
    except Exception as error:
        return False, f"COULD NOT BE JUDGED: {error}"
    return test is not None, test or "SURVIVED"


def main(arguments: list[str] | None = None) -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="mutants to run, by default all")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="how many at once, by default one a core")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the patches are")
    options = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["HF_HUB_OFFLINE"] = "1"  # as tests/conftest.py says, but packages are imported before it here
    paths = {path.stem: path for path in sorted(options.folder.glob("*.patch"))}
    names = options.only or list(paths)
    unknown = [name for name in names if name not in paths]
    if unknown or not names:
        parser.error(f"no mutant {', '.join(unknown)} in {options.folder}")
    try:
        mutants = [read(paths[name]) for name in names]
        for mutant in mutants:
            mutant.mutated((ROOT / mutant.file).read_text())
    except PatchError as error:
        print(error)
        return 1
    return judge(mutants, options.jobs)


if __name__ == "__main__":
    sys.exit(main())
