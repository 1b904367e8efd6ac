"""Checks commands of the documentation with the parsers that would read them; nothing is run."""

import argparse
import os
import re
import runpy
import sys
import tomllib
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser, Namespace, auto_parser

from helpers.doc_pages import ROOT
from tmkd_lightning.cli import cache_fill, lightning_cli, probe
from tmkd_lightning.cli.lightning_cli import TMKDCLI
from tmkd_lightning.cli.main import LIGHTNING_VERBS, VERBS, main

KNOWN = {verb.split()[0] for verb in LIGHTNING_VERBS | VERBS} | {"--help"}
PROBE, FILL = probe.ProbeCLI, cache_fill.FillCLI
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^(\w[\w-]*):(?!=)", MAKEFILE, re.M))
SETTINGS = set(re.findall(r"^(\w+) \?=", MAKEFILE, re.M))
EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


class ParsedError(Exception):
    """The options have been read: further a script need not go."""


def check(words: list[str]) -> None:
    """Fails if a command does not exist or does not take these options.

    Raises:
        LookupError: nothing is known about such a command.
    """
    if words[0] not in CHECKS:
        raise LookupError(f"{words[0]!r} is no command that could be checked: run it, or say above the block why not")
    CHECKS[words[0]](words[1:])


def check_verb(words: list[str]) -> None:
    """A command named in a sentence, whose options are left out."""
    assert words[0] != "tmkd" or words[1] in KNOWN, f"tmkd has no verb {words[1]}"


def check_tmkd(arguments: list[str]) -> None:
    """By the command line itself, which stops once it has read them."""
    if arguments[0] not in KNOWN:
        raise LookupError(f"tmkd has no verb {arguments[0]}")
    if arguments == ["--help"]:
        return
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.filterwarnings("error", "(?s).*was expanded to")  # an option cut short
        patch.setattr(lightning_cli, "TMKDCLI", parse_lightnings)
        patch.setattr(probe, "ProbeCLI", parse_probe)
        patch.setattr(cache_fill, "FillCLI", parse_fill)
        patch.setattr("tmkd_lightning.cli.main.auto_cli", parse_verb)
        main(arguments)


def parse_verb(components: Any, args: Sequence[str], **options: Any) -> None:
    auto_parser(components, **options).parse_args(args)


def parse_lightnings(args: Sequence[str]) -> None:
    parsers()[args[0]].parse_args(args[1:])


def parse_probe(args: Sequence[str]) -> None:
    parsers(PROBE, "probe")["probe"].parse_args(args[1:])


def parse_fill(args: Sequence[str]) -> None:
    parsers(FILL, "fill")["fill"].parse_args(args[1:])


@cache
def parsers(command_line: type[TMKDCLI] = TMKDCLI, verb: str = "fit") -> dict[str, ArgumentParser]:
    """Those of ``tmkd fit`` and its like, by verb; each alone, which takes half the time of all under one."""
    found = []

    def stop(self: TMKDCLI, *_: object) -> None:
        found.append(self._subcommand_parsers)
        raise ParsedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TMKDCLI, "parse_arguments", stop)
        with pytest.raises(ParsedError):
            command_line([verb])
    return found[0]


def build(*configs: str) -> Namespace:
    """What ``tmkd fit`` makes of config files: networks without numbers in them, callbacks, loggers, data."""
    parser = parsers()["fit"]
    parsed = parser.parse_args([f"--config={config}" for config in configs])
    # maps are found by the numbers that go through a network
    read_maps = ("AT", "NST", "FitNet", "VID", "ReviewKD", "SimKD")
    named = any(f"distillers.{name}'" in str(parsed) for name in read_maps)
    with torch.device("cpu" if named else "meta"), warnings.catch_warnings(action="ignore"):
        return parser.instantiate_classes(parsed)


def check_python(words: list[str]) -> None:
    """A module of ours or a script: by its own parser, up to where it would start."""
    if words[0] == "-m":
        assert words[1] == "tmkd_lightning", f"unknown module {words[1]}"
        return check_tmkd(words[2:]) if words[2:] else None
    assert Path(words[0]).is_file(), f"no script {words[0]}"
    parse_args = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser, args: Sequence[str] | None = None) -> None:
        parser.allow_abbrev = False
        parse_args(parser, args)
        raise ParsedError

    with pytest.MonkeyPatch.context() as patch, importing_from(Path(words[0]).resolve().parent):
        patch.setattr(sys, "argv", words)
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        with pytest.raises(ParsedError):
            runpy.run_path(words[0], run_name="__main__")


def check_make(words: list[str]) -> None:
    names = {word.partition("=")[0] for word in words}
    assert names <= TARGETS | SETTINGS, f"the Makefile knows no {names - TARGETS - SETTINGS}"


def check_pip(words: list[str]) -> None:
    named = {extra for word in words for extra in re.findall(r"\.\[(.*)\]", word)}
    assert named <= EXTRAS, f"pyproject.toml has no extra {named - EXTRAS}"


CHECKS: dict[str, Callable[[list[str]], None]] = {
    "tmkd": check_tmkd,
    "python": check_python,
    "make": check_make,
    "pip": check_pip,
    "srun": check,
    "mkdir": lambda words: Path(words[0]).mkdir(),
    "cd": lambda words: os.chdir(words[0]),
}


@contextmanager
def importing_from(folder: Path) -> Iterator[None]:
    """As a script does that lies in a folder, whose modules are forgotten at the end."""
    with pytest.MonkeyPatch.context() as patch, forgetting_modules():
        patch.syspath_prepend(str(folder))
        yield


@contextmanager
def forgetting_modules() -> Iterator[None]:
    """Modules that were imported inside are not there for the next one, whose own may have the same names."""
    before = set(sys.modules)
    yield
    site = str(Path(torch.__file__).parents[1])
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None) or site
        if not file.startswith((site, sys.base_prefix, str(ROOT / "src"))):
            del sys.modules[name]
